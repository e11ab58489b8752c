"""DQN in InstaTok, beside what it has to beat, in the same sessions; several seeds.

Run:    python benchmarks/quality/session_agents.py [memoryless|fatigue] [--seeds 5] [--sessions 2000|20000]
        (both dynamics where none are named)
Data:   generated.
Protocol: for each seed an agent is trained, and judged in sessions of that seed which no training has, over the
        recommender's 30 candidates; every policy has the same users and luck. `myopic` and `oracle` know the hidden
        watch probabilities: the best next reward, and the optimum by dynamic programming. With fatigue `regret` is what
        the choices of a session are worth less than the optimum's, by the world: the rewards' expectation without their
        luck, which is many times what the policies differ by.
World:  one for all seeds, that of InstaTokConfig.seed 0: errors are those of agents and sessions in it, and say nothing
        of other worlds.
Seeds:  from 100 on; settings were chosen with seeds below that, of training and of sessions.
Expect: memoryless two minutes of processor time a seed. In the notebook's dynamics at least 95% of the oracle's reward
        and 9.0; with fatigue more than myopic's, and less regret, by two standard errors.
Writes: benchmarks/results/session_agents_{memoryless,fatigue}.json
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import quality_result, write_result

from rec.config import CandidateQConfig
from rec.on_ray.cluster import ensure_ray
from rl.config import DQNTrainConfig, InstaTokConfig, InstaTokEnvConfig
from rl.dqn import agent_of, dqn_config
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.planning import Plan
from rl.instatok.slot_policies import baselines, by_agent
from rl.instatok.world import CATEGORIES
from rl.session_env import Observation
from rl.session_evaluation import METRICS, Played, SlotPolicy, compare, evaluation_seeds
from rl.training import train_agent

Dynamics = Literal["memoryless", "fatigue"]

TRAINING: Final[dict[Dynamics, DQNTrainConfig]] = {
    "memoryless": DQNTrainConfig(total_steps=60_000),
    "fatigue": DQNTrainConfig(
        network=CandidateQConfig(matches=(("recent_categories", "candidate_categories"),)),
        total_steps=400_000,
        sessions=1024,
        steps_between_updates=1,
        training_intensity=4,
        batch_size=256,
        warmup_steps=10_000,
        learning_rate=3e-3,
        final_learning_rate=0.01,
        discount=0.95,
        double=False,
        tau=0.02,
        final_epsilon=0.3,
        replay_capacity=400_000,
        steps_per_report=50_000,
    ),
}
# An agent values any number of candidates. With fatigue it learns from the best one of each category, which takes
# less time for each step, and is judged over all 30.
LEARNT_FROM: Final[dict[Dynamics, dict[str, int]]] = {
    "memoryless": {},
    "fatigue": {"n_candidates": len(CATEGORIES), "per_category": 1},
}
# With fatigue a session's luck is many times what policies differ by.
SESSIONS: Final[dict[Dynamics, int]] = {"memoryless": 2_000, "fatigue": 20_000}
FIRST_SEED: Final = 100
SHARE_OF_ORACLE: Final = 0.95
LEAST_REWARD: Final = 9.0

Floats = NDArray[np.float64]
Found = dict[str, dict[str, Floats]]
"""Of each policy, of each session: the metrics."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dynamics", nargs="?", choices=list(TRAINING), help="both where none are named")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sessions", type=int, help="judged for each seed")
    parser.add_argument("--steps", type=int, help="played while training")
    options = parser.parse_args()
    ensure_ray(1)
    for dynamics in TRAINING:
        if options.dynamics in (None, dynamics):
            measure(dynamics, options)


def measure(dynamics: Dynamics, options: argparse.Namespace) -> None:
    """Trains and judges the agents of all seeds; prints and writes what came of it."""
    config = TRAINING[dynamics]
    if options.steps:
        config = config.model_copy(update={"total_steps": options.steps})
    n_sessions = options.sessions or SESSIONS[dynamics]
    environment = InstaTokEnvConfig(world=InstaTokConfig(dynamics=dynamics))
    learnt_from = environment.model_copy(update=LEARNT_FROM[dynamics])
    arena, learning = Arena.of(environment), Arena.of(learnt_from)
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    found: dict[int, Found] = {}
    for seed in seeds:
        found[seed] = one_seed(arena, learning, config.model_copy(update={"seed": seed}), n_sessions)
        means = "  ".join(f"{name} {each['reward'].mean():.3f}" for name, each in found[seed].items())
        print(f"seed {seed}  {means}", flush=True)
    rows = [
        {
            "model": name,
            "seed": seed,
            "log": dynamics,
            "metrics": {metric: float(values.mean()) for metric, values in each.items()},
        }
        for seed, results in found.items()
        for name, each in results.items()
    ]
    summary = summarised(dynamics, list(found.values()))
    for row in summary:
        goal = (
            "" if row["goal"] is None else f"  goal {row['goal']:.3f}  {'reached' if row['reached'] else 'not reached'}"
        )
        print(f"{row['metric']:<46}{row['model']:<12}{row['mean']:8.3f} ± {row['std_error']:.3f}{goal}")
    protocol = {
        "world": arena.world.config.model_dump(mode="json"),
        "candidates": environment.model_dump(mode="json", exclude={"world"}),
        "learnt_from": learnt_from.model_dump(mode="json", exclude={"world"}),
        "training": config.model_dump(mode="json", exclude={"seed"}),
        "sessions": n_sessions,
        "seeds": seeds,
    }
    name = f"session_agents_{dynamics}"
    write_result(quality_result(name, protocol=protocol, rows=rows, summary=summary))


@dataclass
class Weighed:
    """A policy, and what it gives up in each of its sessions: `rl.instatok.planning.Plan.regret`, summed, (S,)."""

    plan: Plan
    policy: SlotPolicy
    regret: Floats

    def __call__(self, seen: Observation, videos: VideoRound) -> NDArray[np.integer[Any]]:
        """What the policy chooses."""
        columns = self.policy(seen, videos)
        shown = videos.candidates.ids[np.arange(len(columns)), columns]
        self.regret += self.plan.regret(videos.sessions, self.plan.world.category[shown])
        return columns


def one_seed(arena: Arena, learning: Arena, config: DQNTrainConfig, n_sessions: int) -> Found:
    """An agent trained from a seed where it learns, and every policy in the same sessions."""
    seeds = evaluation_seeds(config.seed, n_sessions)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_agent(
            dqn_config(partial(VideoRound, learning), INPUTS, config),
            agent_of,
            total_steps=config.total_steps,
            asked=config.model_dump(mode="json"),
            folder=Path(folder),
        )
    policies: dict[str, SlotPolicy] = {**baselines(arena, seeds), "dqn": by_agent(trained.agent)}
    if arena.world.fatigued_p is None:
        return {name: metrics_of(played) for name, played in compare(arena, policies, seeds).items()}
    plan = Plan.of(arena.world)
    weighed = {name: Weighed(plan, policy, np.zeros(n_sessions)) for name, policy in policies.items()}
    return {
        name: metrics_of(played) | {"regret": weighed[name].regret}
        for name, played in compare(arena, weighed, seeds).items()
    }


def metrics_of(played: Played) -> dict[str, Floats]:
    """By name, of each session."""
    return {metric: getattr(played, metric) for metric in METRICS}


def summarised(dynamics: str, found: list[Found]) -> list[dict[str, Any]]:
    """Means over the sessions of all seeds, and the differences that the goals are about."""

    def of(name: str, metric: str = "reward") -> list[Floats]:
        return [results[name][metric] for results in found]

    rows = [_row(name, metric, of(name, metric)) for metric in found[0]["dqn"] for name in found[0]]
    ours = of("dqn")
    for name in found[0]:
        if name != "dqn":
            above = [a - b for a, b in zip(ours, of(name), strict=True)]
            goal = 0.0 if dynamics == "fatigue" and name == "myopic" else None
            rows.append(_row("dqn", f"reward - {name}'s", above, goal=goal, errors=2))
    if dynamics == "fatigue":
        below = [a - b for a, b in zip(of("myopic", "regret"), of("dqn", "regret"), strict=True)]
        rows.append(_row("dqn", "regret below myopic's", below, goal=0.0, errors=2))
    if dynamics == "memoryless":
        rows[0:0] = [_row("dqn", "reward, goal", ours, goal=LEAST_REWARD)]
        # The ratio of two means of the same sessions, its error by the delta method.
        oracle = of("oracle")
        mean, ratio = np.concatenate(oracle).mean(), np.concatenate(ours).mean() / np.concatenate(oracle).mean()
        share = [(a - ratio * b) / mean + ratio for a, b in zip(ours, oracle, strict=True)]
        rows.append(_row("dqn", "share of the oracle's reward", share, goal=SHARE_OF_ORACLE))
    return rows


def _row(
    model: str, metric: str, by_seed: list[Floats], *, goal: float | None = None, errors: float = 0
) -> dict[str, Any]:
    """The mean of all sessions; a goal is reached where the mean is above it by so many standard errors.

    The error is that over sessions, or that over the seeds, whose sessions share an agent, where that is larger.
    """
    values = np.concatenate(by_seed)
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    means = np.array([each.mean() for each in by_seed])
    if len(means) > 1:
        error = max(error, float(means.std(ddof=1) / np.sqrt(len(means))))
    return {
        "model": model,
        "metric": metric,
        "mean": mean,
        "std_error": error,
        "n": len(values),
        "published": None,
        "goal": goal,
        "reached": None if goal is None else bool(mean - errors * error >= goal),
    }


if __name__ == "__main__":
    main()
