"""DQN in InstaTok, beside what it has to beat, in the same sessions; both dynamics, several seeds.

Run:    python benchmarks/quality/session_agents.py [--seeds 5] [--sessions 2000] [--dynamics memoryless fatigue]
Data:   generated.
Protocol: for each seed an agent is trained, and judged in sessions of that seed which no training has, over the
        recommender's 30 candidates; every policy has the same users and luck. `myopic` and `oracle` know the hidden
        watch probabilities: the best next reward, and the optimum by dynamic programming.
Expect: about two minutes of processor time a seed and dynamics. In the notebook's dynamics at least 95% of the oracle's
        reward; with fatigue more than myopic's by two standard errors.
Writes: benchmarks/results/session_agents.json
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import quality_result, write_result

from rec.ray_cluster import ensure_ray
from rl.config import DQNTrainConfig, InstaTokConfig, InstaTokEnvConfig
from rl.dqn import agent_of, dqn_config
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.slot_policies import baselines, by_agent
from rl.session_evaluation import METRICS, Played, compare, evaluation_seeds
from rl.training import train_agent

DYNAMICS: Final = ("memoryless", "fatigue")
SHARE_OF_ORACLE: Final = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=2000, help="judged for each seed")
    parser.add_argument("--steps", type=int, default=DQNTrainConfig().total_steps, help="played while training")
    parser.add_argument("--dynamics", choices=DYNAMICS, nargs="+", default=list(DYNAMICS))
    options = parser.parse_args()
    ensure_ray(1)
    rows: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for dynamics in options.dynamics:
        arena = Arena.of(InstaTokEnvConfig(world=InstaTokConfig(dynamics=dynamics)))
        played = [one_seed(arena, seed, options.steps, options.sessions) for seed in range(options.seeds)]
        for seed, results in enumerate(played):
            rows += [
                {
                    "model": name,
                    "seed": seed,
                    "log": dynamics,
                    "metrics": {metric: float(getattr(each, metric).mean()) for metric in METRICS},
                }
                for name, each in results.items()
            ]
        summary += summarised(dynamics, played)
    for row in summary:
        goal = (
            "" if row["goal"] is None else f"  goal {row['goal']:.3f}  {'reached' if row['reached'] else 'not reached'}"
        )
        print(f"{row['metric']:<46}{row['model']:<12}{row['mean']:8.3f} ± {row['std_error']:.3f}{goal}")
    protocol = {
        "world": InstaTokConfig().model_dump(mode="json"),
        "candidates": InstaTokEnvConfig().model_dump(mode="json", exclude={"world"}),
        "training": DQNTrainConfig(total_steps=options.steps).model_dump(mode="json"),
        "sessions": options.sessions,
        "seeds": options.seeds,
    }
    write_result(quality_result("session_agents", protocol=protocol, rows=rows, summary=summary))


def one_seed(arena: Arena, seed: int, steps: int, n_sessions: int) -> dict[str, Played]:
    """An agent trained from a seed, and every policy in the same sessions."""
    config = DQNTrainConfig(total_steps=steps, seed=seed)
    seeds = evaluation_seeds(seed, n_sessions)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_agent(
            dqn_config(partial(VideoRound, arena), INPUTS, config),
            agent_of,
            total_steps=steps,
            asked=config.model_dump(mode="json"),
            folder=Path(folder),
        )
    return compare(arena, {**baselines(arena, seeds), "dqn": by_agent(trained.agent)}, seeds)


def summarised(dynamics: str, played: list[dict[str, Played]]) -> list[dict[str, Any]]:
    """Means over the sessions of all seeds, and the differences that the goals are about."""
    rewards = {name: np.concatenate([results[name].reward for results in played]) for name in played[0]}
    rows = [_row(dynamics, name, "reward", values) for name, values in rewards.items()]
    for metric in METRICS[1:]:
        rows += [
            _row(dynamics, name, metric, np.concatenate([getattr(results[name], metric) for results in played]))
            for name in rewards
        ]
    for name in rewards:
        if name != "dqn":
            rows.append(_row(dynamics, "dqn", f"reward - {name}'s", rewards["dqn"] - rewards[name]))
    if dynamics == "memoryless":
        # The ratio of two means of the same sessions, its error by the delta method.
        ratio = rewards["dqn"].mean() / rewards["oracle"].mean()
        share = (rewards["dqn"] - ratio * rewards["oracle"]) / rewards["oracle"].mean() + ratio
        rows.append(_row(dynamics, "dqn", "share of the oracle's reward", share, goal=SHARE_OF_ORACLE))
    else:
        over = _row(dynamics, "dqn", "reward over myopic, goal 2 errors", rewards["dqn"] - rewards["myopic"])
        over["goal"], over["reached"] = 0.0, bool(over["mean"] > 2 * over["std_error"])
        rows.append(over)
    return rows


def _row(
    dynamics: str, model: str, metric: str, values: np.ndarray[Any, Any], *, goal: float | None = None
) -> dict[str, Any]:
    mean = float(values.mean())
    return {
        "model": model,
        "metric": f"{dynamics}: {metric}",
        "mean": mean,
        "std_error": float(values.std(ddof=1) / np.sqrt(len(values))),
        "n": len(values),
        "published": None,
        "goal": goal,
        "reached": None if goal is None else bool(mean >= goal),
    }


if __name__ == "__main__":
    main()
