"""What is left of the best possible value as actions get more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib import pyplot as plt

matplotlib.use("Agg")

LINES: Final = {
    ("regression", "argmax_value"): "regression, greedy",
    ("ips", "value"): "IPS gradient",
    ("dr", "value"): "DR gradient, weights capped as chosen",
    ("dr uncapped", "value"): "DR gradient, uncapped",
    ("direct method", "value"): "reward model alone (direct method)",
    ("logistic regression per action", "argmax_value"): "logistic regression per action, greedy",
    ("uniform", "value"): "uniform",
}


def plot_sweep(sweep: Sequence[dict[str, Any]], path: Path) -> None:
    """Value over the oracle's against the number of actions, with two standard errors over seeds."""
    oracle = {row["n_actions"]: row["mean"] for row in sweep if row["model"] == "oracle"}
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (model, metric), label in LINES.items():
        rows = [row for row in sweep if (row["model"], row["metric"]) == (model, metric)]
        if not rows:
            continue
        sizes = [row["n_actions"] for row in rows]
        means = [row["mean"] / oracle[row["n_actions"]] for row in rows]
        bars = [2 * (row["std_error"] or 0.0) / oracle[row["n_actions"]] for row in rows]
        axes.errorbar(sizes, means, bars, marker="o", capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("actions")
    axes.set_ylabel("value / oracle's value")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
