"""What rankers see of a user and a candidate; one function for training, evaluation and answering."""

from collections.abc import Sequence
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.features.as_of import AS_OF_FEATURES
from rec.features.ranking_rows import fill_rows
from rec.features.snapshot import Snapshot
from rec.i2i import ItemNeighbors
from rec.state import UserStates

RETRIEVAL: Final = ("retrieval_score", "retrieval_rank", "retrieval_gap")
I2I: Final = ("i2i_sum", "i2i_sum_10", "i2i_max")
# What is compiled anew for arrays of any other kind, such as read-only ones.
_ORDINARY: Final = ("C", "W")
COUNTS: Final = ("item_count_7d", "item_count_30d", "item_count_90d", "item_count_all")


@final
class RankingFeatures:
    """Feature rows of (user, candidate), computed from a snapshot; nothing is fitted and every number is finite.

    - retrieval_score, retrieval_rank (how many have a higher one), retrieval_gap (to the user's best);
    - the item's as-of and numeric features as encoded, its categorical features as slots;
    - item_percentile_*: share of the catalogue with fewer events in the window, ties half, which stays comparable
      when traffic grows;
    - the user's as-of and numeric features as encoded, categorical ones as slots, history_size (log(1 + items));
    - affinity_*: for each categorical and multi_hot item feature, the share of the history that has the candidate's
      value, averaged over its values;
    - taste_*: for each numeric item feature and item_count_all, the candidate minus the mean of the history;
    - i2i_sum, i2i_sum_10, i2i_max, with neighbours, which are of the snapshot's catalogue: similarity of the candidate
      summed over the history, over its last ten items, and to the nearest of them.

    Ids themselves are left to retrieval: a tree would learn them by heart. Text and vectors stay with the towers.
    """

    def __init__(self, snapshot: Snapshot, neighbors: ItemNeighbors | None = None) -> None:
        schema, items = snapshot.encoders.schema, snapshot.items
        item_numeric = [feature.name for feature in schema.of_side("item") if feature.kind == "numeric"]
        item_categorical = [feature.name for feature in schema.of_side("item") if feature.kind == "categorical"]
        valued = [feature.name for feature in schema.of_side("item") if feature.kind in ("categorical", "multi_hot")]
        item_as_of = [name for name, feature in AS_OF_FEATURES.items() if feature.side == "item"]
        user_as_of = [name for name, feature in AS_OF_FEATURES.items() if feature.side == "user"]
        user_numeric = [feature.name for feature in schema.of_side("user") if feature.kind == "numeric"]
        user_categorical = [feature.name for feature in schema.of_side("user") if feature.kind == "categorical"]

        known = {name: items[name] for name in (*item_as_of, *item_numeric, *item_categorical)}
        columns = known | _percentiles(snapshot)
        self._items = np.zeros((len(snapshot.item_ids) + 1, len(columns)), dtype=np.float32)
        self._items[:-1] = np.stack(list(columns.values()), axis=1)
        self._user_names = (*user_as_of, *user_numeric, *user_categorical)
        taste_names = (*item_numeric, "item_count_all")
        slots = [items[name].reshape(len(items[name]), -1) for name in valued]
        self._tables = (
            *_numbered(slots, [snapshot.encoders.cardinality(name) for name in valued], len(self._items)),
            np.array([list(columns).index(name) for name in taste_names]),
            *_of_neighbors(neighbors),
        )
        self.names: tuple[str, ...] = (
            *RETRIEVAL,
            *columns,
            *self._user_names,
            "history_size",
            *(f"affinity_{name}" for name in valued),
            *(f"taste_{name}" for name in taste_names),
            *(I2I if neighbors is not None else ()),
        )
        self.categorical: tuple[str, ...] = (*item_categorical, *user_categorical)

    def matrix(
        self, states: UserStates, items: NDArray[np.integer], scores: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Feature rows of B users and M candidates each, those of one user after the other.

        Args: items: catalogue positions, -1 where there is none, (B, M). scores: the retriever's, (B, M).
        Returns: (B * M, F), columns as in `names`; rows where items is -1 mean nothing but are finite.
        """
        rows = np.empty((*items.shape, len(self.names)), dtype=np.float32)
        users = np.empty((len(items), len(self._user_names) + 1), dtype=np.float32)
        for column, name in enumerate(self._user_names):
            users[:, column] = states.features[name]
        users[:, -1] = np.log1p((states.history >= 0).sum(axis=1))
        fill_rows(
            rows,
            np.require(items, np.int32, _ORDINARY),
            np.require(scores, np.float64, _ORDINARY),
            np.require(states.history, np.int32, _ORDINARY),
            self._items,
            users,
            *self._tables,
        )
        return rows.reshape(-1, len(self.names))


def _numbered(
    slots: Sequence[NDArray[np.int32]], cardinalities: Sequence[int], n_rows: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """Slotted features side by side as `fill_rows` reads them, rows of no item below: slots, starts, how many slots."""
    numbered = np.zeros((n_rows, sum(part.shape[1] for part in slots)), np.int32)
    starts = np.cumsum([0, *(part.shape[1] for part in slots)])
    offset = 0
    for part, cardinality, start in zip(slots, cardinalities, starts, strict=False):
        numbered[: len(part), start : start + part.shape[1]] = np.where(part > 0, part + offset, 0)
        offset += cardinality
    return numbered, starts, offset + 1


def _of_neighbors(neighbors: ItemNeighbors | None) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    if neighbors is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0)
    return (
        np.require(neighbors.indptr, np.int64, _ORDINARY),
        np.require(neighbors.indices, np.int32, _ORDINARY),
        np.require(neighbors.scores, np.float64, _ORDINARY),
    )


def _percentiles(snapshot: Snapshot) -> dict[str, NDArray[np.float32]]:
    """For each count, the share of the catalogue as it was at that time below it, ties counted half, (N,)."""
    columns: dict[str, NDArray[np.float32]] = {}
    was_there = snapshot.added_ms <= snapshot.at_ms
    for name in COUNTS:
        counts = snapshot.item_as_of[name]
        ordered = np.sort(counts[was_there])
        below, up_to = np.searchsorted(ordered, counts, "left"), np.searchsorted(ordered, counts, "right")
        percentile = (below + up_to) / (2 * max(len(ordered), 1))
        columns[name.replace("item_count", "item_percentile")] = percentile.astype(np.float32)
    return columns
