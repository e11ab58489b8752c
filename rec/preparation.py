"""A data set made ready for training and evaluation, the same way for both."""

from dataclasses import dataclass

import numpy as np

from rec.config import TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.data.splits import Split, split
from rec.errors import ConfigError, DataError
from rec.features.as_of import DAY_MS
from rec.features.encoders import Encoders
from rec.features.growth import grown
from rec.features.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set made ready: what counts as liked, divided in time, and encoders of its training period.

    Attributes:
        dataset: as it was read.
        log: all interactions of the training period, liked or not.
        split: the liked ones, divided into training and test.
        encoders: fitted on the training period.
        period_starts: where the ranker's periods begin, then where training ends; UTC milliseconds. Of a model
            that goes on from another: where that one's training ended, then where its own does.
        before: what the model knew that this one goes on from; None where it begins anew.
        catalogue: of a model, what was withdrawn from it and since when it has had its items, to be taken over where
            training begins anew; None where it knows of none.
    """

    dataset: Dataset
    log: Interactions
    split: Split
    encoders: Encoders
    period_starts: tuple[int, ...]
    before: Snapshot | None = None
    catalogue: Snapshot | None = None


class NothingNewError(DataError):
    """Nothing was liked since the end of the training that is to go on."""


def prepare(dataset: Dataset, config: TrainConfig, *, catalogue: Snapshot | None = None) -> Prepared:
    """Keeps what was liked, divides it, fits the encoders on the training period.

    Args: catalogue: of `incremental.catalogue`.
    Raises: DataError: when nothing is left to train on.
    """
    divided, log, end_ms = _divided(dataset, config)
    times = np.sort(divided.train.timestamp)
    starts = [int(times[int(fraction * len(times))]) for fraction in config.ranker.period_fractions]
    if sorted({*starts, end_ms, int(times[0])}) != [int(times[0]), *starts, end_ms]:
        raise DataError(
            f"training rows must spread over time so that the ranker's periods {config.ranker.period_fractions} begin "
            f"one after the other; found {len(times)} rows between {times[0]} and {times[-1]} ms"
        )
    encoders = Encoders.fit(dataset, divided.train, config.encoders)
    return Prepared(dataset, log, divided, encoders, (*starts, end_ms), catalogue=catalogue)


def prepare_new(dataset: Dataset, config: TrainConfig, before: Snapshot) -> Prepared:
    """As `prepare`, for a model that goes on from another; what followed the end of that one's training is its period.

    Args: before: what that model knew; its encoders grow.
    Raises: NothingNewError: when nothing was liked since, in the training period. DataError: when nothing was liked
        before. ConfigError: for a split without a time.
    """
    divided, log, end_ms = _divided(dataset, config)
    if divided.cut_ms is None:
        raise ConfigError(
            f"training that goes on needs a split in time, which {config.split.kind} is not; take none to train on "
            "everything, or global_temporal",
            field="split.kind",
        )
    latest_ms = int(divided.train.timestamp.max())
    if latest_ms < before.at_ms:
        held_back = "" if config.split.kind == "none" else ", or hold less back (--split.kind none)"
        raise NothingNewError(
            f"nothing new to learn from: the training of {config.incremental.parent} ended at {before.at_ms} ms, and "
            f"the latest like in the training period is of {latest_ms} ms; wait for more data{held_back}",
            column="timestamp",
        )
    if int(divided.train.timestamp.min()) >= before.at_ms:
        raise DataError(
            f"training goes on from {config.incremental.parent}, which knew what was liked before {before.at_ms} ms, "
            "and the data hold nothing from before: histories and popularity would be lost. Write what it learned from "
            "beside the log (tandem data import ... --out HOME/events), or train without --from",
            column="timestamp",
        )
    encoders = grown(before.encoders, dataset, divided.train, expire_before_ms=expires_before(config, end_ms))
    return Prepared(dataset, log, divided, encoders, (before.at_ms, end_ms), before)


def expires_before(config: TrainConfig, end_ms: int) -> int | None:
    """The time since which an id must have been seen to keep its row, None where none goes."""
    days = config.incremental.expire_days
    return None if days is None else end_ms - int(days * DAY_MS)


def _divided(dataset: Dataset, config: TrainConfig) -> tuple[Split, Interactions, int]:
    """What was liked, divided; all interactions of the training period; and where that ends."""
    liked = dataset.interactions.positives(
        min_rating=config.data.min_rating, positive_actions=config.data.positive_actions
    )
    divided = split(liked, config.split)
    end_ms = int(divided.train.timestamp.max()) + 1 if divided.cut_ms is None else divided.cut_ms
    # Where no time divides training from test, what was not liked may lie beyond a user's test rows: leave it out.
    log = divided.train if divided.cut_ms is None else dataset.interactions.before(divided.cut_ms)
    return divided, log, end_ms


def snapshot_at(ready: Prepared, config: TrainConfig, at_ms: int) -> Snapshot:
    """Everything known at a time from the training rows before it, and to the model whose catalogue is taken over."""
    snapshot = Snapshot.build(ready.dataset, ready.encoders, ready.split.train, at_ms, history_length(config))
    if ready.before is not None:
        return snapshot.going_on_from(ready.before)
    return snapshot if ready.catalogue is None else snapshot.in_catalogue_of(ready.catalogue)


def history_length(config: TrainConfig) -> int:
    """How many of the latest items a state holds: what the user tower reads."""
    return max(config.retriever.user_tower.history_windows, default=50)
