"""Off-policy learning on Open Bandit Pipeline's synthetic data, and with more and more actions.

Run:    python benchmarks/quality/obp_synthetic.py [--seeds 5] [--sweep 10 50 100 500 1000 5000] [--sweep-seeds 3]
World:  10 actions, contexts of 5, beta -2, logistic reward, seed 12345, 10,000 rounds to learn from and 10,000 to judge
        on, drawn as version 0.5.5 draws them (checked: the uniform policy is worth .499925).
Learns: two towers, by regression (greedy), IPS gradients and DR gradients with a cross-fitted regression. Settings are
        chosen for each by a doubly robust estimate on a third of the log, learned on the others; the exact values of
        the test part decide nothing. A seed is that of weights and batches; the log is one, as published.
Judged: exact value on the test contexts, of the softmax policy and of its argmax.
Expect: about ten minutes for the table and half an hour for the sweep on one core.
Writes: benchmarks/results/obp_synthetic.json and .png
"""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, quality_result, write_result
from synthetic_bandit.generator import UNIFORM_VALUE, Bandit, generate
from synthetic_bandit.learning import GRIDS, OBJECTIVES, Settings, choose, fit_objective, probabilities
from synthetic_bandit.plot import plot_sweep

from rec.ope.reward_model import logistic_per_action

ROUNDS = 10_000
PUBLISHED = {
    ("oracle", "value"): 0.79986,
    ("logging", "value"): 0.4239,
    ("logistic regression per action", "argmax_value"): 0.7960,
    ("regression", "argmax_value"): 0.7863,
    ("ips", "value"): 0.7606,
    ("dr", "value"): 0.7733,
}
GOALS = {("dr", "value"): 0.793, ("dr", "argmax_value"): 0.793}
# More actions take longer, and capping is what matters there.
SWEPT = {
    "regression": GRIDS["regression"],
    "ips": (Settings(10, max_weight=10.0), Settings(10)),
    "dr": tuple(Settings(10, max_weight=cap) for cap in (0.1, 1.0, 10.0)),
}


def main() -> None:
    """The table, then the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sweep", type=int, nargs="*", default=[10, 50, 100, 500, 1000, 5000])
    parser.add_argument("--sweep-seeds", type=int, default=3)
    options = parser.parse_args()
    started = time.perf_counter()
    train, test = generate(ROUNDS, ROUNDS)
    if abs(test.q.mean() - UNIFORM_VALUE) > 5e-7:
        raise AssertionError(f"another world: uniform is worth {test.q.mean():.6f} here, {UNIFORM_VALUE} in 0.5.5's")
    rows, protocol = run(train, test, range(options.seeds), GRIDS)
    summary = [_summary(model, metric, rows) for model, metric in _cells(rows)]
    for row in summary:
        error = "" if row["std_error"] is None else f" ± {row['std_error']:.4f}"
        print(f"{row['model']:<32} {row['metric']:<13} {row['mean']:.4f}{error}  published {row['published']}")
    sweep = []
    for n_actions in options.sweep:
        parts = generate(ROUNDS, ROUNDS, n_actions=n_actions)
        found, settings = run(*parts, range(options.sweep_seeds), SWEPT)
        for model, metric in _cells(found):
            sweep.append({"n_actions": n_actions, **_summary(model, metric, found, compared=False)})
        protocol[f"settings_{n_actions}_actions"] = settings["settings"]
        told = {row["model"]: round(row["mean"], 4) for row in sweep if row["n_actions"] == n_actions}
        print(f"{n_actions} actions: {told}", flush=True)
    protocol |= {"sweep": sweep, "seconds": round(time.perf_counter() - started, 1)}
    write_result(quality_result("obp_synthetic", protocol=protocol, rows=rows, summary=summary))
    if sweep:
        plot_sweep(sweep, FOLDER / "obp_synthetic.png")


def run(train: Bandit, test: Bandit, seeds: range, grids: dict[str, Any]) -> tuple[list[dict], dict[str, Any]]:
    """All models on one world: rows of exact values, and which settings were chosen from which estimates."""
    n, n_actions = test.q.shape
    references = {
        "oracle": np.eye(n_actions)[test.q.argmax(axis=1)],
        "uniform": np.full((n, n_actions), 1 / n_actions),
        "logging": test.pi_b,
    }
    rows = [_row(model, None, {"value": test.value(policy)}) for model, policy in references.items()]
    per_action = logistic_per_action(train.context, train.action, train.reward, n_actions)(test.context)
    greedy = np.eye(n_actions)[per_action.argmax(axis=1)]
    rows.append(_row("logistic regression per action", None, {"argmax_value": test.value(greedy)}))
    chosen: dict[Any, Settings] = {}
    estimates: list[dict[str, Any]] = []
    for objective in OBJECTIVES:
        chosen[objective], told = choose(train, objective, chosen, grids[objective], seed=0)
        estimates += told
        for seed in seeds:
            model = fit_objective(train, objective, chosen, seed)
            values = {"argmax_value": test.value(probabilities(model, test.context, kind="greedy"))}
            if objective != "regression":
                values["value"] = test.value(probabilities(model, test.context, kind="softmax"))
            rows.append(_row(objective, seed, values))
            print(f"  {n_actions} actions, {objective}, seed {seed}: {values}", flush=True)
    settings = {objective: asdict(found) for objective, found in chosen.items()}
    return rows, {"n_train": len(train), "n_test": n, "settings": settings, "estimates": estimates}


def _row(model: str, seed: int | None, metrics: dict[str, float]) -> dict[str, Any]:
    return {"model": model, "seed": seed, "log": 0, "metrics": metrics}


def _cells(rows: list[dict]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["model"], metric) for row in rows for metric in row["metrics"]))


def _summary(model: str, metric: str, rows: list[dict], *, compared: bool = True) -> dict[str, Any]:
    values = np.array([row["metrics"][metric] for row in rows if row["model"] == model])
    goal = GOALS.get((model, metric)) if compared else None
    return {
        "model": model,
        "metric": metric,
        "mean": float(values.mean()),
        "std_error": float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        "n": len(values),
        "published": PUBLISHED.get((model, metric)) if compared else None,
        "goal": goal,
        "reached": None if goal is None else bool(values.mean() >= goal),
    }


if __name__ == "__main__":
    main()
