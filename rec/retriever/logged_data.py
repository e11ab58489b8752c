"""What off-policy objectives learn from: what was shown to whom, with which probability, and what it earned."""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.config import QueriesConfig
from rec.crossfit import user_folds
from rec.data.dataset import Dataset, Interactions
from rec.data.rounds import Rounds
from rec.errors import ConfigError, TrainingError
from rec.features.as_of import DAY_MS, EventIndex
from rec.features.encoders import Encoders
from rec.retriever.data import NewPeriod, snapshot_times
from rec.retriever.tower_inputs import EncodedMoments, TowerTables
from rec.sampling import runs

N_FOLDS: Final = 2


@dataclass(frozen=True, slots=True)
class LoggedData:
    """Bandit rounds as arrays: one row per impression.

    Attributes:
        tables: features of users and items, and what users did.
        moments: the users when they asked, R of them.
        item: position of the item shown, int32, (R,).
        propensity: of the item at its position, given those above it, float64, (R,).
        reward: float32, (R,).
        banned_start, banned: items that could not be shown at the position: (R + 1,) and (nnz,).
        fold: of the user, for cross-fitting, (R,).
        at_ms: of the request, (R,).
        train, valid: rows to learn from, and later ones to judge by, positions.
        unit_rewards: whether all that was earned lies in [0, 1], whichever rows are left out of `train` later.
    """

    tables: TowerTables
    moments: EncodedMoments
    item: NDArray[np.int32]
    propensity: NDArray[np.float64]
    reward: NDArray[np.float32]
    banned_start: NDArray[np.int64]
    banned: NDArray[np.int32]
    fold: NDArray[np.int64]
    at_ms: NDArray[np.int64]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    unit_rewards: bool

    def since(self, start_ms: int) -> "LoggedData":
        """The same rounds, of which those before a time are not learned from."""
        return replace(self, train=self.train[self.at_ms[self.train] >= start_ms], valid=self.valid[:0])

    def without_fold(self, fold: int) -> "LoggedData":
        """The same rounds, of which those of a fold's users are not learned from."""
        return replace(self, train=self.train[self.fold[self.train] != fold], valid=self.valid[:0])


def build_logged_data(
    dataset: Dataset,
    encoders: Encoders,
    liked: Interactions,
    config: QueriesConfig,
    *,
    end_ms: int,
    valid_until_ms: int | None = None,
    new: NewPeriod | None = None,
) -> LoggedData:
    """The rounds whose rewards were final before end_ms, and those from then until valid_until_ms to judge by.

    A reward is final when the attribution window of its request has closed: what people did later is not looked at.
    An item cannot be shown again below itself. Where fewer items were eligible than the catalogue of the time held
    beside those above, what the user had liked before is taken to be what could not be shown, as serving does. How many
    items that catalogue held is told by the most that were eligible under the same policy version: since then it may
    have grown, or shrunk. Which items it did not hold yet the log does not say: what is learned may show them.

    Args: dataset: with rounds. encoders: fitted. liked: what histories and as-of features are made of; nothing of it at
        or after end_ms is looked at, but in the states of rounds to judge by. new: of a model that goes on
        from another; what was final when it began is not new.
    Raises: ConfigError: when the data hold no rounds. TrainingError: when none of them was final before end_ms.
    """
    rounds = dataset.rounds
    if rounds is None:
        raise ConfigError(
            f"{dataset.name} data do not say with which probability anything was shown, which off-policy objectives "
            "need; take --data events, or an objective of likes: mixed_negative, logq, cross_entropy",
            field="retriever.objective",
        )
    until_ms = end_ms if valid_until_ms is None else valid_until_ms
    start_ms = 0 if config.lookback_days is None else end_ms - int(config.lookback_days * DAY_MS)
    window_ms = round(rounds.attribution_s * 1000)
    final_ms = rounds.timestamp + window_ms
    train = (rounds.timestamp >= start_ms) & (final_ms <= end_ms)
    if new is not None:
        train[train] = new.rows(final_ms[train] - 1)
    kept = train | ((rounds.timestamp >= end_ms) & (final_ms <= until_ms))
    closed = something_left_out(rounds)[kept]
    rounds, train = rounds.take(kept), train[kept]
    if not train.any():
        raise TrainingError(
            f"the retriever has nothing to learn from: no reward of the log was final before {end_ms} ms, "
            f"{rounds.attribution_s:g} s after its request" + (f", and not before {new.start_ms} ms" if new else "")
        )
    index = EventIndex(liked.before(until_ms))
    snapshot_ms = snapshot_times(liked.before(end_ms), config, end_ms)
    if new is not None:
        snapshot_ms = new.snapshots(snapshot_ms, lead_ms=window_ms)
    user = _positions(liked.user_ids, rounds.user_id)
    item = _positions(liked.item_ids, rounds.item_id)
    banned_start, banned = _banned(index, user, item, rounds.timestamp, rounds.request, closed)
    return LoggedData(
        tables=TowerTables.build(dataset, encoders, index, snapshot_ms),
        moments=EncodedMoments.at(encoders, index, user, rounds.timestamp, snapshot_ms),
        item=item,
        propensity=rounds.propensity,
        reward=rounds.reward.astype(np.float32),
        banned_start=banned_start,
        banned=banned,
        fold=user_folds(rounds.user_id, N_FOLDS),
        at_ms=rounds.timestamp,
        train=np.flatnonzero(train),
        valid=np.flatnonzero(~train),
        unit_rewards=bool(((rounds.reward >= 0) & (rounds.reward <= 1))[train].all()),
    )


def something_left_out(rounds: Rounds) -> NDArray[np.bool_]:
    """Whether fewer items were eligible than in other rounds of the same policy version, those above apart, (R,)."""
    version, versions = pd.factorize(rounds.policy_version)
    n_items = rounds.n_eligible + rounds.position
    most = np.zeros(len(versions), np.int64)
    np.maximum.at(most, version, n_items)
    return n_items < most[version]


def _positions(vocabulary: NDArray[np.object_], ids: NDArray[Any]) -> NDArray[np.int32]:
    return pd.Index(vocabulary).get_indexer(pd.Index(ids)).astype(np.int32)


def _banned(
    index: EventIndex,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    at_ms: NDArray[np.int64],
    request: NDArray[np.int32],
    closed: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Items above each round in its slate, and where `closed` those the user had liked: (R + 1,) and (nnz,)."""
    rows = np.arange(len(item))
    begins = np.append(True, request[1:] != request[:-1])
    top = np.maximum.accumulate(np.where(begins, rows, 0))
    prefix_row, prefix = runs(top, rows)
    indptr, liked = index.seen(user[closed], at_ms[closed])
    row = np.append(prefix_row, np.repeat(rows[closed], np.diff(indptr)))
    others = np.append(item[prefix], liked)
    kept = others != item[row]
    row, others = row[kept], others[kept]
    order = np.argsort(row, kind="stable")
    return np.searchsorted(row[order], np.arange(len(item) + 1)), others[order].astype(np.int32)
