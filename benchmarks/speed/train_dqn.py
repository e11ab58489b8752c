"""Training a session agent beside Stable-Baselines3's DQN: the processor time until both earn the same.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install -c constraints.txt stable-baselines3==2.9.2 .
    python benchmarks/speed/train_dqn.py --peer-python /tmp/peer/bin/python

Data:   generated; InstaTok's sessions with the notebook's dynamics.
Expect: two minutes of processor time for each seed and side. Writes benchmarks/results/train_dqn.json.

Both train the same network in the same environment, 128 sessions side by side, with as many updates for each step
played (or it ends with an error), from uniform replay: one thread, no double Q-learning, as the peer has none, Huber
loss, the same schedules of learning rate and exploration, batches and soft target updates. After every 5,000 steps the
greedy policy is judged in the same 2,000 sessions, which no training has; judging is not timed, nor is making the
environment. Of each share of what the best policy over the same candidates earns, `until_s` is the processor time of
the first report from which on all earn as much, and `first_s` that of the first that does, which the next may lose
again. `step_s` is that of a step over the whole training, updates included.

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
from collections.abc import Mapping, Sequence
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
from rec.on_ray.cluster import ensure_ray  # noqa: E402
from rl.config import DQNTrainConfig, InstaTokEnvConfig  # noqa: E402
from rl.dqn import agent_of, dqn_config  # noqa: E402
from rl.instatok.agent_inputs import INPUTS  # noqa: E402
from rl.instatok.arena import Arena, VideoRound  # noqa: E402
from rl.instatok.slot_policies import baselines, by_agent  # noqa: E402
from rl.session_evaluation import evaluation_seeds, play_sessions  # noqa: E402

SHARES_OF_ORACLE: Final = (0.85, 0.9, 0.925, 0.95)
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
            best = best_reward(arena, seeds)
            runs = {"ours": trained(arena, training, seed, seeds), "peer": ask(str(seed))}
            require_as_many_updates(runs, training)
            rows.append({"seed": seed, "oracle": best, **{side: told(run, best) for side, run in runs.items()}})
            print(line(rows[-1]), flush=True)
    named = {"name": "stable-baselines3", "version": said["version"], "torch": said["torch"]}
    result = {
        "name": "train_dqn",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {**given, "parameters": parameters, "clock": "processor time"},
        "unit": "ms",
        "repeats": options.seeds,
        **compared([row["ours"]["step_s"] for row in rows], [row["peer"]["step_s"] for row in rows], named),
        "shares": [of_share(rows, share) for share in SHARES_OF_ORACLE],
        "rows": rows,
    }
    write_result(result)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has stable-baselines3, and what we need")
    parser.add_argument("--seeds", type=int, default=5)
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


def told(run: Run, best: float) -> dict[str, Any]:
    """When a curve came to each share of the best reward, for good and first, and the time of a step."""
    curve = run["curve"]
    return {
        "shares": [{"share": share, **reached(curve, share * best)} for share in SHARES_OF_ORACLE],
        "step_s": curve[-1]["seconds"] / curve[-1]["steps"],
        "last_share": curve[-1]["reward"] / best,
        "updates": run["updates"],
        "curve": curve,
    }


def reached(curve: Sequence[Mapping[str, float]], wanted: float) -> dict[str, float | None]:
    """When all reports from one on earned what is wanted, and when the first did; None for never."""
    enough = [row["reward"] >= wanted for row in curve]
    lasting = len(curve) - next((n for n, held in enumerate(reversed(enough)) if not held), len(curve))
    return {
        "until_s": curve[lasting]["seconds"] if lasting < len(curve) else None,
        "first_s": curve[enough.index(True)]["seconds"] if any(enough) else None,
    }


def of_share(rows: Sequence[Mapping[str, Any]], share: float) -> dict[str, Any]:
    """How many seeds of each side came to a share, and the ratio over those in which both did, from two on."""
    found: dict[str, Any] = {"share": share}
    for name in ("until_s", "first_s"):
        times = [
            [next(each[name] for each in row[side]["shares"] if each["share"] == share) for side in ("ours", "peer")]
            for row in rows
        ]
        both = [pair for pair in times if None not in pair]
        ours, theirs = ([pair[side] for pair in both] for side in (0, 1))
        found[name] = {
            "n_ours": sum(ours is not None for ours, _ in times),
            "n_peer": sum(theirs is not None for _, theirs in times),
            **(compared(ours, theirs, {}) if len(both) > 1 else {"ratio": None}),
        }
    return found


def line(row: Mapping[str, Any]) -> str:
    """A seed in words."""
    sides = (
        f"{side} until "
        + ", ".join(f"{each['share']:g}: {_seconds(each['until_s'])}" for each in row[side]["shares"])
        + f", {1e6 * row[side]['step_s']:.0f} us a step, at last {row[side]['last_share']:.3f}"
        for side in ("ours", "peer")
    )
    return f"seed {row['seed']}, shares of {row['oracle']:.2f}: " + "; ".join(sides)


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    main()
