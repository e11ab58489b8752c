"""A data set made ready for training and evaluation, the same way for both."""

from dataclasses import dataclass

import numpy as np

from rec.config import TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.data.splits import Split, split
from rec.errors import DataError
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set made ready: what counts as liked, divided in time, and encoders of its training period.

    Attributes:
        dataset: as it was read.
        log: all interactions of the training period, liked or not.
        split: the liked ones, divided into training and test.
        encoders: fitted on the training period.
        period_starts: where the ranker's periods begin, then where training ends; UTC milliseconds.
    """

    dataset: Dataset
    log: Interactions
    split: Split
    encoders: Encoders
    period_starts: tuple[int, ...]


def prepare(dataset: Dataset, config: TrainConfig) -> Prepared:
    """Keeps what was liked, divides it, fits the encoders on the training period.

    Raises: DataError: when nothing is left to train on.
    """
    liked = dataset.interactions.positives(
        min_rating=config.data.min_rating, positive_actions=config.data.positive_actions
    )
    divided = split(liked, config.split)
    times = np.sort(divided.train.timestamp)
    end_ms = int(times[-1]) + 1 if divided.cut_ms is None else divided.cut_ms
    starts = [int(times[int(fraction * len(times))]) for fraction in config.ranker.period_fractions]
    if sorted({*starts, end_ms, int(times[0])}) != [int(times[0]), *starts, end_ms]:
        raise DataError(
            f"training rows must spread over time so that the ranker's periods {config.ranker.period_fractions} begin "
            f"one after the other; found {len(times)} rows between {times[0]} and {times[-1]} ms"
        )
    # Where no time divides training from test, what was not liked may lie beyond a user's test rows: leave it out.
    log = divided.train if divided.cut_ms is None else dataset.interactions.before(divided.cut_ms)
    encoders = Encoders.fit(dataset, divided.train, config.encoders)
    return Prepared(dataset, log, divided, encoders, (*starts, end_ms))


def snapshot_at(ready: Prepared, config: TrainConfig, at_ms: int) -> Snapshot:
    """Everything known at a time from the training rows before it."""
    return Snapshot.build(ready.dataset, ready.encoders, ready.split.train, at_ms, history_length(config))


def history_length(config: TrainConfig) -> int:
    """How many of the latest items a state holds: what the user tower reads."""
    return max(config.retriever.user_tower.history_windows, default=50)
