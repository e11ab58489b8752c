"""Off-policy learning on Open Bandit Pipeline's synthetic data, and with more and more actions.

Run:    python benchmarks/quality/obp_synthetic.py [--parts table sweep] [--seeds 5] [--worlds 3]
            [--actions 10 50 100 500 1000 5000] [--sweep-seeds 3]
World:  10 actions, contexts of 5, beta -2, logistic reward, seed 12345, 10,000 rounds to learn from and 10,000 to judge
        on, drawn as version 0.5.5 draws them (checked: the uniform policy is worth .499925).
Learns: two towers, by regression (greedy), IPS gradients and DR gradients with a cross-fitted regression. Settings are
        chosen out of a grid by the lower bound of an off-policy estimate on a third of the log, learned on the others:
        of DR, or where its effective sample size is below 100 of DR with shrunk weights, whose interval allows for
        what was not drawn. A seed is that of weights and batches; the log is one, as published.
Beware: the grid itself (caps of DR's weights from .1 up) and the number of folds were set while looking at exact values
        of the published world. Fresh worlds (generator seeds 1, 2, ...) were looked at only after that: they are the
        test of what is learned. A cap of .1 leaves nearly all to the reward model; `dr uncapped` is the DR gradient
        without one.
Judged: exact value on the test contexts, of the softmax policy and of its argmax.
Expect: about ten minutes for the table and twenty for the sweep on one core; 5 GB of memory for 5,000 actions.
Writes: benchmarks/results/obp_synthetic.json, obp_synthetic_sweep.json and obp_synthetic_sweep.png
"""

import argparse
import sys
import time
from dataclasses import asdict, replace
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
    "dr": tuple(Settings(10, max_weight=cap) for cap in (0.1, 1.0, 10.0, None)),
}


def main() -> None:
    """The table, then the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("table", "sweep"), default=("table", "sweep"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--actions", type=int, nargs="+", default=[10, 50, 100, 500, 1000, 5000])
    parser.add_argument("--sweep-seeds", type=int, default=3)
    options = parser.parse_args()
    if "table" in options.parts:
        table(range(options.seeds), range(1, options.worlds + 1))
    if "sweep" in options.parts:
        sweep(options.actions, range(options.sweep_seeds))


def table(seeds: range, worlds: range) -> None:
    """The published world over several seeds, and one seed in each of several fresh worlds."""
    started = time.perf_counter()
    train, test = generate(ROUNDS, ROUNDS)
    if abs(test.q.mean() - UNIFORM_VALUE) > 5e-7:
        raise AssertionError(f"another world: uniform is worth {test.q.mean():.6f} here, {UNIFORM_VALUE} in 0.5.5's")
    rows, protocol = run(train, test, seeds, GRIDS)
    summary = [_summary(model, metric, rows) for model, metric in _cells(rows)]
    for row in summary:
        error = "" if row["std_error"] is None else f" ± {row['std_error']:.4f}"
        print(f"{row['model']:<32} {row['metric']:<13} {row['mean']:.4f}{error}  published {row['published']}")
    fresh = []
    for world in worlds:
        found, settings = run(*generate(ROUNDS, ROUNDS, seed=world), range(1), GRIDS)
        values = {f"{row['model']} {name}": value for row in found for name, value in row["metrics"].items()}
        fresh.append({"world": world, "values": values, "settings": settings["settings"]})
        print(f"fresh world {world}: " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()), flush=True)
    protocol |= {"fresh_worlds": fresh, "seconds": round(time.perf_counter() - started, 1)}
    write_result(quality_result("obp_synthetic", protocol=protocol, rows=rows, summary=summary))


def sweep(sizes: list[int], seeds: range) -> None:
    """The same with more and more actions."""
    started = time.perf_counter()
    rows, summary, settings = [], [], {}
    for n_actions in sizes:
        found, told = run(*generate(ROUNDS, ROUNDS, n_actions=n_actions), seeds, SWEPT)
        settings[n_actions] = told["settings"]
        rows += [{"n_actions": n_actions, **row} for row in found]
        of_size = [
            {"n_actions": n_actions, **_summary(model, metric, found, compared=False)}
            for model, metric in _cells(found)
        ]
        summary += of_size
        print(f"{n_actions} actions: " + "  ".join(f"{r['model']} {r['metric']} {r['mean']:.4f}" for r in of_size))
    protocol = {"settings": settings, "seconds": round(time.perf_counter() - started, 1)}
    write_result(quality_result("obp_synthetic_sweep", protocol=protocol, rows=rows, summary=summary))
    plot_sweep(summary, FOLDER / "obp_synthetic_sweep.png")


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
        print(f"  {n_actions} actions, {objective}, settings by their lower bound:")
        for settings, row in zip(grids[objective], told, strict=True):
            cap = "none" if settings.max_weight is None else f"{settings.max_weight:g}"
            interval = f"{row['estimator']:<6} {row['estimate']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            how = f"{settings.epochs} epochs, decay {settings.weight_decay:g}, cap {cap}"
            mark = "  chosen" if settings == chosen[objective] else ""
            print(f"    {how:<32} {interval}  ess {row['ess']:.0f} of {row['n']}{mark}", flush=True)
    learned: list[tuple[str, Any, dict[Any, Settings]]] = [(objective, objective, chosen) for objective in OBJECTIVES]
    learned.append(("dr uncapped", "dr", chosen | {"dr": replace(chosen["dr"], max_weight=None)}))
    for name, objective, settings in learned:
        for seed in seeds:
            model = fit_objective(train, objective, settings, seed)
            values = {"argmax_value": test.value(probabilities(model, test.context, kind="greedy"))}
            if objective != "regression":
                values["value"] = test.value(probabilities(model, test.context, kind="softmax"))
            rows.append(_row(name, seed, values))
            print(f"  {n_actions} actions, {name}, seed {seed}: {values}", flush=True)
    used = {objective: asdict(found) for objective, found in chosen.items()}
    return rows, {"n_train": len(train), "n_test": n, "settings": used, "estimates": estimates}


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
