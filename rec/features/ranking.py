"""What rankers see of a user and a candidate; one function for training, evaluation and answering."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.features.as_of import AS_OF_FEATURES
from rec.features.snapshot import Snapshot
from rec.i2i import ItemNeighbors
from rec.state import UserStates

RETRIEVAL: Final = ("retrieval_score", "retrieval_rank", "retrieval_gap")
I2I: Final = ("i2i_sum", "i2i_sum_10", "i2i_max")
COUNTS: Final = ("item_count_7d", "item_count_30d", "item_count_90d", "item_count_all")

_CHUNK: Final = 2**20  # numbers in the largest temporary array, about; users are taken in chunks to hold it


@dataclass(frozen=True, slots=True)
class _Valued:
    """An item feature with slots: those of each item and of no item (last row), (N + 1, L), and how many slots are."""

    slots: NDArray[np.int64]
    n_values: NDArray[np.float32]
    cardinality: int


@final
class RankingFeatures:
    """Feature rows of (user, candidate), computed from a snapshot; nothing is fitted and every number is finite.

    - retrieval_score, retrieval_rank (from 0, by score), retrieval_gap (to the user's best);
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
        self._taste_names = (*item_numeric, "item_count_all")
        self._taste_columns = [list(columns).index(name) for name in self._taste_names]
        self._valued = [_with_padding(items[name], snapshot.encoders.cardinality(name)) for name in valued]
        self._neighbors = neighbors
        self.names: tuple[str, ...] = (
            *RETRIEVAL,
            *columns,
            *self._user_names,
            "history_size",
            *(f"affinity_{name}" for name in valued),
            *(f"taste_{name}" for name in self._taste_names),
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
        n_users, n_candidates = items.shape
        matrix = np.empty((n_users, n_candidates, len(self.names)), dtype=np.float32)
        users = np.stack(
            [
                *(states.features[name].astype(np.float32) for name in self._user_names),
                np.log1p((states.history >= 0).sum(axis=1)).astype(np.float32),
            ],
            axis=1,
        )
        for rows in self._chunks(n_users, n_candidates, states.history.shape[1]):
            block, column = matrix[rows], 0
            for part in self._parts(states.history[rows], users[rows], items[rows], scores[rows]):
                block[..., column : column + part.shape[-1]] = part
                column += part.shape[-1]
        return matrix.reshape(n_users * n_candidates, len(self.names))

    def _parts(
        self,
        history: NDArray[np.int32],
        users: NDArray[np.float32],
        items: NDArray[np.integer],
        scores: NDArray[np.floating],
    ) -> Iterator[NDArray]:
        """Groups of columns in the order of `names`, each (b, M, number of columns) or one to be spread over M."""
        yield _retrieval(items, scores)
        of_items = self._items[items]
        yield of_items
        yield users[:, None, :]
        n_items = (history >= 0).sum(axis=1)
        length = np.maximum(n_items, 1).astype(np.float32)
        for valued in self._valued:
            yield _affinity(valued, history, items, length)[..., None]
        of_history = self._items[history[..., None], self._taste_columns].sum(axis=1) / length[:, None]
        yield (of_items[..., self._taste_columns] - of_history[:, None, :]) * np.minimum(n_items, 1)[:, None, None]
        if self._neighbors is not None:
            yield _i2i(self._neighbors, history, items)

    def _chunks(self, n_users: int, n_candidates: int, history_length: int) -> Iterator[slice]:
        sizes = [n_candidates * len(self.names)]
        sizes += [max(valued.cardinality, n_candidates * valued.slots.shape[1]) for valued in self._valued]
        if self._neighbors is not None:
            n_items = len(self._neighbors.item_ids)
            sizes += [n_items, history_length * (len(self._neighbors.indices) // max(n_items, 1))]
        step = max(1, _CHUNK // max(sizes))
        return (slice(start, start + step) for start in range(0, n_users, step))


def _with_padding(slots: NDArray[np.int32], cardinality: int) -> _Valued:
    runs = slots.reshape(len(slots), -1)
    padded = np.concatenate([runs, np.zeros((1, runs.shape[1]), dtype=runs.dtype)]).astype(np.int64)
    return _Valued(padded, np.maximum((padded > 0).sum(axis=1), 1).astype(np.float32), cardinality)


def _percentiles(snapshot: Snapshot) -> dict[str, NDArray[np.float32]]:
    """For each count, the share of the catalogue below it, ties counted half, (N,)."""
    columns: dict[str, NDArray[np.float32]] = {}
    for name in COUNTS:
        counts = snapshot.item_as_of[name]
        ordered = np.sort(counts)
        below, up_to = np.searchsorted(ordered, counts, "left"), np.searchsorted(ordered, counts, "right")
        percentile = (below + up_to) / (2 * len(counts))
        columns[name.replace("item_count", "item_percentile")] = percentile.astype(np.float32)
    return columns


def _retrieval(items: NDArray[np.integer], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Score, rank by score (ties in column order) and distance to the best, 0 where there is no item, (b, M, 3)."""
    present = items >= 0
    ordered = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    rank = np.empty(items.shape)
    np.put_along_axis(rank, ordered, np.arange(items.shape[1], dtype=np.float64)[None, :], axis=1)
    score = np.where(present, scores, 0.0)
    best = np.where(present, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    gap = np.where(present, np.where(present, best, 0.0) - score, 0.0)
    return np.stack([score, np.where(present, rank, 0.0), gap], axis=2)


def _affinity(
    valued: _Valued, history: NDArray[np.int32], items: NDArray[np.integer], length: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Share of the history with the candidate's value, averaged over its values, (b, M)."""
    offset = (np.arange(len(history)) * valued.cardinality)[:, None, None]
    n_slots = len(history) * valued.cardinality
    counts = np.bincount((valued.slots[history] + offset).ravel(), minlength=n_slots).astype(np.float32)
    counts[offset.ravel()] = 0  # slot 0 of each user: padding and missing values
    shared = counts[valued.slots[items] + offset].sum(axis=2)
    return shared / (valued.n_values[items] * length[:, None])


def _i2i(neighbors: ItemNeighbors, history: NDArray[np.int32], items: NDArray[np.integer]) -> NDArray[np.float64]:
    """Similarity of candidates to the history: sum, sum over the last ten, maximum, (b, M, 3).

    The neighbour rows of a user's history are added up over the catalogue, then read where the candidates are; which
    is a sparse product of history and neighbours without forming the matrix of either.
    """
    n_items = len(neighbors.item_ids)
    user, place = np.nonzero(history >= 0)
    start = neighbors.indptr[history[user, place]]
    lengths = neighbors.indptr[history[user, place] + 1] - start
    entries = np.repeat(start - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
    cells = np.repeat(user * n_items, lengths) + neighbors.indices[entries]
    scores = neighbors.scores[entries]
    late = np.repeat(place >= history.shape[1] - 10, lengths)
    n_cells = len(history) * n_items
    highest = np.zeros(n_cells)
    np.maximum.at(highest, cells, scores)
    wanted = np.maximum(items, 0) + (np.arange(len(history)) * n_items)[:, None]
    similarity = np.stack(
        [
            np.bincount(cells, scores, n_cells)[wanted],
            np.bincount(cells[late], scores[late], n_cells)[wanted],
            highest[wanted],
        ],
        axis=2,
    )
    return np.where((items >= 0)[..., None], similarity, 0.0)
