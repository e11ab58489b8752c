"""Training a session agent beside Stable-Baselines3's DQN: the processor time until both earn the same.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -c constraints.txt stable-baselines3==2.9.2 .
    python benchmarks/speed/train_dqn.py --peer-python /tmp/peer/bin/python

Data:   generated; InstaTok's sessions with the notebook's dynamics.
Expect: two minutes of processor time for each seed and side. Writes benchmarks/results/train_dqn.json.

Both train the same network in the same environment, 128 sessions side by side, with as many updates for each step
played (or it ends with an error), from uniform replay: one thread, no double Q-learning, as the peer has none, Huber
loss, the same schedules of learning rate and exploration, batches and soft target updates. After every 5,000 steps the
greedy policy is judged in the same 2,000 sessions, which no training has; judging is not timed, nor is making the
environment. `until_s` is the processor time of the first report from which on all earn 90% of what the best policy over
the same candidates does, `step_s` that of a step over the whole training, updates included. (One report above that is
luck: after 5,000 steps, nearly all of them random, a policy may have it, and lose it with the next.)

What differs: the peer starts a session in the same step in which the one before ended, lets all sessions explore in the
same steps, and its updates are its own; ours are RLlib's learner behind `rl.dqn`, in one process with the environment.
The time of Ray's own processes, which do nothing here, is not in ours. Most of an update of ours are passes through the
network, which the peer makes, too; the rest is what RLlib's learner keeps beside: metrics, checks, targets.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, compared, machine, write_result  # noqa: E402
from benchmarks.speed.peer import peer  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.models.candidate_q import CandidateQ  # noqa: E402
from rec.ray_cluster import ensure_ray  # noqa: E402
from rl.config import DQNTrainConfig, InstaTokEnvConfig  # noqa: E402
from rl.dqn import agent_of, dqn_config  # noqa: E402
from rl.instatok.agent_inputs import INPUTS  # noqa: E402
from rl.instatok.arena import Arena, VideoRound  # noqa: E402
from rl.instatok.slot_policies import baselines, by_agent  # noqa: E402
from rl.session_evaluation import evaluation_seeds, play_sessions  # noqa: E402

SHARE_OF_ORACLE: Final = 0.9
TRAINING: Final = DQNTrainConfig(double=False, loss="huber", target_every=1, tau=0.1)

Run = dict[str, Any]
"""Of a side and seed: `curve`, what the greedy policy earns after so many steps and seconds; `updates`; `steps`."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    training = TRAINING.model_copy(update={"total_steps": options.steps})
    environment = InstaTokEnvConfig()
    arena = Arena.of(environment)
    ensure_ray(1)
    given = {
        "training": training.model_dump(mode="json"),
        "environment": environment.model_dump(mode="json"),
        "sessions": options.sessions,
    }
    script = Path(__file__).with_name("train_dqn_peer.py")
    rows = []
    with peer(options.peer_python, script, json.dumps(given)) as ask:
        said = ask(None)
        parameters = sum(weight.numel() for weight in CandidateQ(INPUTS, training.network).parameters())
        if said["parameters"] != parameters:
            raise RuntimeError(f"the peer's network has {said['parameters']} parameters, ours {parameters}")
        for seed in range(options.seeds):
            seeds = evaluation_seeds(seed, options.sessions)
            wanted = SHARE_OF_ORACLE * best_reward(arena, seeds)
            runs = {"ours": trained(arena, training, seed, seeds), "peer": ask(str(seed))}
            require_as_many_updates(runs, training)
            rows.append({"seed": seed, "wanted": wanted, **{side: told(run, wanted) for side, run in runs.items()}})
            print(line(rows[-1]), flush=True)
    named = {"name": "stable-baselines3", "version": said["version"], "torch": said["torch"]}
    result = {
        "name": "train_dqn",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {**given, "share_of_oracle": SHARE_OF_ORACLE, "parameters": parameters, "clock": "processor time"},
        "unit": "ms",
        "repeats": options.seeds,
        **of_seeds(rows, "until_s", named),
        "a_step": of_seeds(rows, "step_s", named),
        "rows": rows,
    }
    write_result(result)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has stable-baselines3, and what we need")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=TRAINING.total_steps, help="played while training")
    parser.add_argument("--sessions", type=int, default=2000, help="judged in each report")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: at least 2 are required, as the ratio's interval is over seeds")
    return options


def best_reward(arena: Arena, seeds: NDArray[np.uint64]) -> float:
    """Of the policy that knows what is hidden, over the same candidates."""
    return float(play_sessions(arena, baselines(arena, seeds)["oracle"], seeds).reward.mean())


def trained(arena: Arena, training: DQNTrainConfig, seed: int, seeds: NDArray[np.uint64]) -> Run:
    """Ours."""
    config = training.model_copy(update={"seed": seed})
    algorithm: Any = dqn_config(partial(VideoRound, arena), INPUTS, config).build_algo()
    curve: list[dict[str, float]] = []
    seconds, played = 0.0, 0
    while played < config.total_steps:
        began = time.process_time()
        result: Any = algorithm.train()
        seconds += time.process_time() - began
        played = int(result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME])
        module: Any = algorithm.get_module()
        reward = float(play_sessions(arena, by_agent(agent_of(module)), seeds).reward.mean())
        curve.append({"steps": played, "seconds": seconds, "reward": reward})
    algorithm.stop()
    return {"curve": curve, "updates": algorithm.n_updates, "steps": played}


def require_as_many_updates(runs: Mapping[str, Run], training: DQNTrainConfig) -> None:
    """Checks that over as many steps both sides made as many updates, but for two rounds at the start and the end.

    Raises: RuntimeError: where one made more.
    """
    ours, theirs = runs["ours"], runs["peer"]
    a_round = training.training_intensity * training.steps_between_updates * training.sessions / training.batch_size
    expected = theirs["updates"] * ours["steps"] / theirs["steps"]
    if not ours["updates"] or abs(ours["updates"] - expected) > 2 * a_round:
        raise RuntimeError(
            f"as many updates are required on both sides; in {ours['steps']} steps ours made {ours['updates']}, and "
            f"the peer {theirs['updates']} in {theirs['steps']}"
        )


def told(run: Run, wanted: float) -> dict[str, Any]:
    """When a curve came to what is wanted for good, None where it never did, and the time of a step."""
    curve = run["curve"]
    reached = None
    for row in reversed(curve):
        if row["reward"] < wanted:
            break
        reached = row
    return {
        "until_s": reached and reached["seconds"],
        "until_steps": reached and reached["steps"],
        "step_s": curve[-1]["seconds"] / curve[-1]["steps"],
        "last_reward": curve[-1]["reward"],
        "updates": run["updates"],
        "curve": curve,
    }


def of_seeds(rows: list[dict[str, Any]], name: str, named: dict[str, Any]) -> dict[str, Any]:
    """Both sides over the seeds; without a ratio where a side never came there."""
    ours, theirs = ([row[side][name] for row in rows] for side in ("ours", "peer"))
    if None in (*ours, *theirs):
        return {"ours": {"seconds": ours}, "peer": {**named, "seconds": theirs}, "ratio": None}
    return compared(ours, theirs, named)


def line(row: dict[str, Any]) -> str:
    sides = (
        f"{side} until {row[side]['until_s'] or float('nan'):.1f} s ({row[side]['until_steps']} steps), "
        f"{1e6 * row[side]['step_s']:.0f} us a step, at last {row[side]['last_reward']:.2f}"
        for side in ("ours", "peer")
    )
    return f"seed {row['seed']}, wanted {row['wanted']:.2f}: " + "; ".join(sides)


if __name__ == "__main__":
    main()
