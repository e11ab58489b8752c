"""What the two-tower retriever is trained against, on MovieLens-1M: several seeds, compared by user.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/negatives_movielens.py [--seeds 3] [--epochs 3]
            [--rows NAME ...]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: the retriever alone, on the validation period of the temporal protocol of retrieval_movielens.py: fitted on
        the likes before the ranker's last period, judged by the likes in it, over the full catalogue, what a user
        liked before left out. Of the epochs the best by validation NDCG@10 counts, for all alike. The test period is
        never looked at.
Rows:   objective logq (negatives are the items of the batch) or mixed_negative (and 256 uniform ones); how often an
        item is drawn is taken to be the same for all (none: such a constant leaves a softmax as it is), counted, or
        streaming; with 8 hard negatives a moment or without. All of a seed have the same batches.
Source: Yi et al. (2019), doi:10.1145/3298689.3346996: on Wikipedia pages the correction lifts recall@10 from .0643 to
        .1065 and recall@100 from .3746 to .4664.
Expect: a quarter of an hour a seed on one core; corrected above none by either objective.
Writes: benchmarks/results/negatives_movielens.json, anew after each fit.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, paired_row, quality_result, summary_row, write_result

from rec.config import DataConfig, FrequenciesConfig, HardNegativesConfig, TrainConfig
from rec.data.source import read_dataset
from rec.evaluation import EvaluationPeriod, evaluate, lists_of
from rec.metrics import format_difference, format_estimate
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.preparation import prepare, snapshot_at
from rec.retrieval.two_tower import TwoTowerSource
from rec.retriever.fits import likes_task
from rec.retriever.task import RetrieverTask
from rec.training import fit

METRICS: Final = ("ndcg@10", "recall@100")
HARD: Final = HardNegativesConfig(per_query=8)

UserValues = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Negatives:
    """What is trained against."""

    objective: Literal["logq", "mixed_negative"]
    frequencies: Literal["none", "counted", "streaming"]
    hard: bool = False

    @property
    def name(self) -> str:
        """As printed and stored."""
        return ", ".join((self.objective, self.frequencies, *(("hard",) if self.hard else ())))

    def task(self, task: RetrieverTask) -> RetrieverTask:
        """The task of training against them."""
        changes: dict[str, Any] = {"objective": self.objective}
        if self.frequencies == "streaming":
            changes["frequencies"] = FrequenciesConfig(kind="streaming")
        if self.hard:
            changes["hard_negatives"] = HARD
        data = task.data
        if self.frequencies == "none":
            data = replace(data, log_q=np.zeros_like(data.log_q))
        return replace(task, data=data, config=task.config.model_copy(update=changes))


ROWS: Final = tuple(
    Negatives(objective, frequencies, hard)
    for objective in ("mixed_negative", "logq")
    for frequencies, hard in (
        ("counted", False),
        ("streaming", False),
        ("counted", True),
        ("none", False),
        ("streaming", True),
    )
)
# More than the other in one thing: how the frequencies are known, or the hard negatives.
COMPARED: Final = tuple(
    (f"{objective}, {more}", f"{objective}, {less}")
    for objective in ("mixed_negative", "logq")
    for more, less in (
        ("counted", "none"),
        ("streaming", "none"),
        ("streaming", "counted"),
        ("counted, hard", "counted"),
        ("streaming, hard", "streaming"),
    )
)


def main() -> None:
    """Fits a retriever for each seed and row, and compares rows by user."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    names = [negatives.name for negatives in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names))
    options = parser.parse_args()
    data = DataConfig(name="movielens-1m", path=str(data_folder() / "ml-1m"))
    base = TrainConfig(data=data)
    training = base.training.model_copy(update={"workers": 0, "epochs": options.epochs})
    ready = prepare(read_dataset(data), base)
    start_ms, end_ms = ready.period_starts[-2:]
    snapshot = snapshot_at(ready, base, start_ms)
    train = ready.split.train
    period = EvaluationPeriod.build(
        train.before(start_ms), train.between(start_ms, end_ms), at_ms=start_ms, states=snapshot.user_states
    )
    task = likes_task(ready, base, len(ready.period_starts) - 2, judged=True)
    protocol = {
        "period": [start_ms, end_ms],
        "n_train": len(train.before(start_ms)),
        "n_users": len(period),
        "epochs": options.epochs,
        "streaming": FrequenciesConfig(kind="streaming").model_dump(),
        "hard_negatives": HARD.model_dump(),
    }

    rows: list[dict[str, Any]] = []
    values: dict[str, list[UserValues]] = {}
    for seed in range(options.seeds):
        for negatives in (row for row in ROWS if row.name in options.rows):
            fitted = fit(negatives.task(replace(task, seed=seed)), training, seed=seed)
            model = TwoTower(base.retriever, snapshot.encoders.specs)
            put_weights(model, fitted.weights)
            source = TwoTowerSource.build(model, snapshot, base.index)
            report = evaluate({negatives.name: lists_of(source)}, period, metrics=METRICS)
            metrics = {metric: estimate.value for metric, estimate in report.models[negatives.name].items()}
            values.setdefault(negatives.name, []).append(report.values[negatives.name])
            rows.append({"model": negatives.name, "seed": seed, "log": None, "metrics": metrics})
            told = "".join(f"  {metric} {value:.4f}" for metric, value in metrics.items())
            seconds = sum(epoch["train_s"] for epoch in fitted.progress.history)
            print(
                f"seed {seed}  {negatives.name:<32}{told}  epoch {fitted.progress.best_epoch}  {seconds:.0f} s",
                flush=True,
            )
            summary, paired = _compared(rows, values)
            protocol["paired"] = paired
            write_result(quality_result("negatives_movielens", protocol=protocol, rows=rows, summary=summary))

    for row in summary:
        told = format_estimate({"value": row["mean"], "std_error": row["std_error_users"]})
        print(f"{row['model']:<32} {row['metric']:<11} {told} (over users)")
    for difference in paired:
        print(
            f"{difference['a']} - {difference['b']:<24} {difference['metric']:<11} {format_difference(difference)}  "
            f"(of each seed: {', '.join(f'{value:+.4f}' for value in difference['by_seed'])})"
        )


def _compared(
    rows: list[dict[str, Any]], values: dict[str, list[UserValues]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Means over seeds, and differences of rows over the seeds that both have."""
    summary = [summary_row(name, metric, rows, users=found) for name, found in values.items() for metric in METRICS]
    paired = [
        paired_row(more, less, metric, values[more], values[less])
        for more, less in COMPARED
        if more in values and less in values
        for metric in METRICS
    ]
    return summary, paired


if __name__ == "__main__":
    main()
