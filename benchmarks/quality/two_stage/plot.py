"""The table as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from two_stage.summary import crossed_mean

matplotlib.use("Agg")

PANELS: Final = {"precision@10": "Precision@10, %", "recall@10": "Recall@10, %", "ndcg@10": "NDCG@10, %"}
SHOWN_BOUNDS: Final = {
    "oracle": ":",
    "oracle's top 30 + ranker": "-.",
    "ranker, whole catalogue": "--",
    "ranker, all labels": "--",
}


def plot_runs(
    values: Mapping[tuple[str, str, str], np.ndarray],
    bounds: list[dict[str, Any]],
    path: Path,
    panels: dict[str, str] = PANELS,
) -> None:
    """Means with two standard errors beside the bounds; values: seeds x logs by objective, stage and metric."""
    objectives = list(dict.fromkeys(objective for objective, _, _ in values))
    stages = list(dict.fromkeys(stage for _, stage, _ in values))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), layout="constrained")
    for panel, (metric, title) in zip(axes, panels.items(), strict=True):
        for stage, marker in zip(stages, ("o", "s"), strict=True):
            cells = [crossed_mean(values[objective, stage, metric]) for objective in objectives]
            bars = [200 * (cell.std_error or 0.0) for cell in cells]
            panel.errorbar(objectives, [100 * cell.mean for cell in cells], bars, fmt=marker, capsize=4, label=stage)
        for name, style in SHOWN_BOUNDS.items():
            if name not in bounds[0]["rows"]:
                continue
            level = 100 * float(np.mean([run["rows"][name][metric] for run in bounds]))
            panel.axhline(level, linestyle=style, color="gray", linewidth=1, label=name)
        panel.set_title(title)
        panel.tick_params(axis="x", rotation=20)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
