"""Streaming item frequencies where the truth is known and changes: the simulation of Yi et al. (2019).

Run:    python benchmarks/quality/streaming_frequency.py [--seeds 3]
Stream: 1,000 items, batches of 128 draws with replacement, item i in proportion to i^2; from step 10,000 to 20,000 in
        the reverse order, so that what was rare is frequent and the other way round. The streams of all seeds run side
        by side in the same arrays, as items of their own, with as many more buckets.
Error:  sum over items of |estimated - true probability of being in a batch|, over the sum of the true ones.
Rows:   learning rates where hardly any ids share a bucket; numbers of hash functions at 2,000 buckets each; and
        the recurrence with B = 0 at first and the rate alpha from the first gap on, where ours begins with means.
Source: Yi et al. (2019), section 6.1, doi:10.1145/3298689.3346996. The figure is given there without numbers: what is
        compared is its shape.
Expect: about half a minute; errors fall, jump at the switch and fall again; a larger alpha recovers faster and has the
        larger error while nothing changes; more hash functions, smaller errors. What has become rare is not seen again,
        and its estimate stays, so that not all of the error is recovered from.
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

    def before_the_streams(self, n: int) -> StreamingFrequency:
        """The estimates before the first batch of n streams."""
        frequency = StreamingFrequency.empty(alpha=self.alpha, n_hashes=self.n_hashes, size=self.size * n)
        if not self.begins_with_means:
            frequency.seen[:] = STEPS
        return frequency


RATES: Final = tuple(Setting(alpha) for alpha in (0.1, 0.03, 0.01))
HASHES: Final = tuple(Setting(0.01, n_hashes, 2_000) for n_hashes in (1, 2, 4))
BEGINNING: Final = Setting(0.01, begins_with_means=False)
SETTINGS: Final = (*RATES, *HASHES, BEGINNING)


def main() -> None:
    """Follows the errors of every setting on the streams of several seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    streams = np.stack([_stream(np.random.default_rng(seed)) for seed in range(options.seeds)], axis=1)
    errors: dict[Setting, NDArray[np.float64]] = {}
    rows, summary = [], []
    for setting in SETTINGS:
        errors[setting] = _errors(setting.before_the_streams(options.seeds), streams)
        metrics = _metrics(errors[setting])
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
        told = "".join(f"  {metric} {np.mean(values):.4g}" for metric, values in metrics.items())
        print(f"{setting.name:<28}{told}", flush=True)
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    protocol = {
        "items": ITEMS,
        "batch": BATCH,
        "switch": SWITCH,
        "windows": WINDOWS,
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


def _errors(frequency: StreamingFrequency, streams: NDArray[np.int64]) -> NDArray[np.float64]:
    """The error in each stream (STEPS, S, BATCH) after every EVERY batches, (S, STEPS / EVERY)."""
    n = streams.shape[1]
    ids = [f"item {number} of stream {stream}" for stream in range(n) for number in range(ITEMS)]
    keys = item_keys(np.array(ids, dtype=object)).reshape(n, ITEMS)
    in_batch = 1 - (1 - _shares()) ** BATCH
    found = []
    for step, items in enumerate(streams, start=1):
        frequency.update(np.take_along_axis(keys, items, axis=1).ravel())
        if step % EVERY == 0:
            truth = in_batch if step <= SWITCH else in_batch[::-1]
            estimated = frequency.in_batch(keys.ravel()).reshape(n, ITEMS)
            found.append(np.abs(estimated - truth).sum(axis=1) / truth.sum())
    return np.array(found).T


def _metrics(errors: NDArray[np.float64]) -> dict[str, list[float]]:
    """Errors in the windows, and after how many steps half of what the switch added is gone; of each seed."""
    metrics = {
        f"error_{name}": errors[:, start // EVERY : end // EVERY].mean(axis=1) for name, (start, end) in WINDOWS.items()
    }
    after = errors[:, SWITCH // EVERY :]
    half = (after[:, 0] + metrics["error_before"]) / 2
    # One that never comes so far has all the steps there are.
    metrics["steps_to_half"] = EVERY * ((after > half[:, None]).cumprod(axis=1).sum(axis=1) + 1.0)
    return {metric: values.tolist() for metric, values in metrics.items()}


def _summary(model: str, metric: str, values: list[float]) -> dict[str, Any]:
    return {
        "model": model,
        "metric": metric,
        "mean": float(np.mean(values)),
        "std_error": float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        "n": len(values),
    }


def _plot(steps: NDArray[np.int64], errors: dict[Setting, NDArray[np.float64]]) -> Figure:
    """Errors by step, of learning rates and beginnings, and of numbers of hash functions."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, settings, title in zip(
        axes,
        ((*RATES, BEGINNING), HASHES),
        ("Hardly any ids share a bucket", "2,000 buckets a hash function, alpha 0.01"),
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
