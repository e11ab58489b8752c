"""Streaming item frequencies where the truth is known and changes: the simulation of Yi et al. (2019).

Run:    python benchmarks/quality/streaming_frequency.py [--seeds 5]
Stream: 1,000 items, batches of 128 draws with replacement, item i in proportion to i^2; from step 10,000 to 20,000 in
        the reverse order, so that what was rare is frequent and the other way round.
Error:  sum over items of |estimated - true probability of being in a batch|, over the sum of the true ones.
Rows:   learning rates where no ids share a bucket; numbers of hash functions at 2,000 buckets each; and, at alpha .01,
        the recurrence with B = 0 at first and the rate alpha from the first gap on, where ours begins with means.
Source: Yi et al. (2019), section 6.1, doi:10.1145/3298689.3346996. The figure is given there without numbers: what is
        compared is its shape.
Expect: about a minute and a half; errors fall, jump at the switch and fall again; a larger alpha recovers faster and
        ends with a larger error; more hash functions, smaller errors.
Writes: benchmarks/results/streaming_frequency.json and .png
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, quality_result, write_result

from rec.streaming_frequency import StreamingFrequency, item_keys

NAME: Final = "streaming_frequency"
ITEMS: Final = 1000
BATCH: Final = 128
SWITCH: Final = 10_000
STEPS: Final = 20_000
EVERY: Final = 100
# Steps over which errors are averaged: late in each half, and right after the switch.
WINDOWS: Final = {"before": (8_000, 10_000), "after": (10_000, 10_500), "end": (18_000, 20_000)}
# Recovered: no more than this times the error before the switch.
RECOVERED: Final = 1.5


@dataclass(frozen=True, slots=True)
class Setting:
    """What estimates: `begins_with_means` as ours does, or with B = 0 and the rate alpha at once."""

    alpha: float
    n_hashes: int = 1
    size: int = 2**20
    begins_with_means: bool = True

    @property
    def name(self) -> str:
        """As printed and stored."""
        many = "" if self.size == 2**20 else f", {self.n_hashes} x {self.size}"
        return f"alpha {self.alpha:g}{many}{'' if self.begins_with_means else ', B = 0 at first'}"

    def before_the_stream(self, seed: int) -> StreamingFrequency:
        """The estimates before the first batch."""
        frequency = StreamingFrequency.empty(alpha=self.alpha, n_hashes=self.n_hashes, size=self.size, seed=seed)
        if not self.begins_with_means:
            frequency.seen[:] = STEPS
        return frequency


RATES: Final = tuple(Setting(alpha) for alpha in (0.1, 0.03, 0.01, 0.003))
HASHES: Final = tuple(Setting(0.01, n_hashes, 2_000) for n_hashes in (1, 2, 4, 8))
BEGINNING: Final = Setting(0.01, begins_with_means=False)
SETTINGS: Final = (*RATES, *HASHES, BEGINNING)


def main() -> None:
    """Follows the errors of every setting on the streams of several seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    errors = {setting: np.zeros((options.seeds, STEPS // EVERY)) for setting in SETTINGS}
    for seed in range(options.seeds):
        batches = _stream(np.random.default_rng(seed))
        for setting in SETTINGS:
            errors[setting][seed] = _errors(setting.before_the_stream(seed), batches)
    rows, summary = [], []
    for setting, found in errors.items():
        metrics = _metrics(found)
        rows += [
            {
                "model": setting.name,
                "seed": seed,
                "log": None,
                "metrics": {metric: values[seed] for metric, values in metrics.items()},
            }
            for seed in range(options.seeds)
        ]
        summary += [_summary(setting.name, metric, values) for metric, values in metrics.items()]
        told = "".join(f"  {row['metric']} {row['mean']}" for row in summary[-len(metrics) :])
        print(f"{setting.name:<28}{told}")
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    protocol = {
        "items": ITEMS,
        "batch": BATCH,
        "switch": SWITCH,
        "windows": WINDOWS,
        "recovered": RECOVERED,
        "step": steps.tolist(),
        "error": {setting.name: np.round(found.mean(axis=0), 5).tolist() for setting, found in errors.items()},
    }
    write_result(quality_result(NAME, protocol=protocol, rows=rows, summary=summary))
    _plot(steps, errors).savefig(FOLDER / f"{NAME}.png", dpi=120)


def _shares() -> NDArray[np.float64]:
    """Probability of each item per draw before the switch, (N,); afterwards it is the reverse."""
    weight = np.arange(1.0, ITEMS + 1) ** 2
    return weight / weight.sum()


def _stream(rng: np.random.Generator) -> NDArray[np.int64]:
    """Items drawn, (STEPS, BATCH)."""
    before = rng.choice(ITEMS, (SWITCH, BATCH), p=_shares())
    return np.concatenate([before, rng.choice(ITEMS, (STEPS - SWITCH, BATCH), p=_shares()[::-1])])


def _errors(frequency: StreamingFrequency, batches: NDArray[np.int64]) -> NDArray[np.float64]:
    """The error after every EVERY batches."""
    keys = item_keys(np.array([f"item {number}" for number in range(ITEMS)], dtype=object))
    in_batch = 1 - (1 - _shares()) ** BATCH
    found = []
    for step, items in enumerate(batches, start=1):
        frequency.update(keys[items])
        if step % EVERY == 0:
            truth = in_batch if step <= SWITCH else in_batch[::-1]
            found.append(np.abs(frequency.in_batch(keys) - truth).sum() / truth.sum())
    return np.array(found)


def _metrics(errors: NDArray[np.float64]) -> dict[str, list[float | None]]:
    """Errors in the windows, and how many steps after the switch the error is small again; of each seed."""
    metrics: dict[str, list[float | None]] = {
        f"error_{name}": errors[:, start // EVERY : end // EVERY].mean(axis=1).tolist()
        for name, (start, end) in WINDOWS.items()
    }
    small = errors[:, SWITCH // EVERY :] <= RECOVERED * np.array(metrics["error_before"], float)[:, None]
    metrics["steps_to_recover"] = [float(EVERY * (np.argmax(row) + 1)) if row.any() else None for row in small]
    return metrics


def _summary(model: str, metric: str, values: list[float | None]) -> dict[str, Any]:
    known = np.array([value for value in values if value is not None])
    return {
        "model": model,
        "metric": metric,
        "mean": float(known.mean()) if len(known) else None,
        "std_error": float(known.std(ddof=1) / len(known) ** 0.5) if len(known) > 1 else None,
        "n": len(known),
    }


def _plot(steps: NDArray[np.int64], errors: dict[Setting, NDArray[np.float64]]) -> Figure:
    """Errors by step, of learning rates and beginnings, and of numbers of hash functions."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, settings, title in zip(
        axes,
        ((*RATES, BEGINNING), HASHES),
        ("No ids share a bucket", "2,000 buckets a hash function, alpha 0.01"),
        strict=True,
    ):
        for setting in settings:
            label = f"{setting.n_hashes} hash functions" if setting in HASHES else setting.name
            axis.plot(steps, errors[setting].mean(axis=0), "-" if setting.begins_with_means else "--", label=label)
        axis.axvline(SWITCH, color="grey", linewidth=0.8)
        axis.set(title=title, xlabel="step", yscale="log")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("relative error of the probability of being in a batch")
    return figure


if __name__ == "__main__":
    main()
