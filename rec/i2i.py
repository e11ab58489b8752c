"""Which items go together: neighbours of items, from who liked both."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.errors import BundleError

_BLOCK: Final = 1024  # rows of the item-item product held at once


@final
@dataclass(frozen=True, slots=True)
class ItemNeighbors:
    """The most similar items of each item; rows are sorted by (-score, item index) and never hold the item itself.

    Attributes:
        item_ids: ids of the rows and of what `indices` point at, strings, (M,).
        indptr: neighbours of row i are indices[indptr[i]:indptr[i + 1]], int64, (M + 1,).
        indices: positions in item_ids, int32, (nnz,).
        scores: similarities, float64, (nnz,).
    """

    item_ids: NDArray[np.object_]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    scores: NDArray[np.float64]


def neighbors_frame(neighbors: ItemNeighbors, source: str) -> pd.DataFrame:
    """The rows of i2i.parquet: item_id, neighbor_id, rank from 0, score, source."""
    counts = np.diff(neighbors.indptr)
    owner = np.repeat(np.arange(len(counts)), counts)
    return pd.DataFrame(
        {
            "item_id": neighbors.item_ids[owner],
            "neighbor_id": neighbors.item_ids[neighbors.indices],
            "rank": (np.arange(len(owner)) - neighbors.indptr[owner]).astype(np.int32),
            "score": neighbors.scores,
            "source": source,
        }
    )


def neighbors_from_frame(frame: pd.DataFrame, item_ids: NDArray[np.object_]) -> ItemNeighbors:
    """What `neighbors_frame` wrote, under a vocabulary that holds all its items.

    Raises: BundleError: for a column that is missing, or an item that the vocabulary lacks.
    """
    try:
        positions = pd.Index(item_ids)
        owner = positions.get_indexer(pd.Index(frame["item_id"]))
        indices = positions.get_indexer(pd.Index(frame["neighbor_id"]))
        scores = frame["score"].to_numpy(dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"neighbours are not a table of items and scores: {error}; train again") from error
    unknown = np.flatnonzero((owner < 0) | (indices < 0))
    if len(unknown):
        raise BundleError("neighbours are not of items of this catalogue; train again", row=int(unknown[0]))
    order = np.lexsort((indices, -scores, owner))
    indptr = np.searchsorted(owner[order], np.arange(len(item_ids) + 1))
    return ItemNeighbors(item_ids, indptr, indices[order].astype(np.int32), scores[order])


def cosine(interactions: Interactions, *, top_k: int) -> ItemNeighbors:
    """Items liked by the same users: n_ij / sqrt(n_i n_j), n_ij the users who liked both.

    Source: Sarwar et al. (2001), doi:10.1145/371920.372071, on 0 and 1.

    Args: interactions: what counts as liked; repeats count once. top_k: neighbours kept of each item.
    """
    pairs = np.unique(interactions.user.astype(np.int64) * interactions.n_items + interactions.item)
    user, item = np.divmod(pairs, interactions.n_items)
    shape = (interactions.n_users, interactions.n_items)
    likes = sparse.csr_array((np.ones(len(pairs), dtype=np.float32), (user, item)), shape=shape)
    by_item = sparse.csr_array(likes.T)
    n_users = np.bincount(item, minlength=interactions.n_items).astype(np.float64)
    neighbours: list[NDArray[np.int32]] = []
    scores: list[NDArray[np.float64]] = []
    for start in range(0, interactions.n_items, _BLOCK):
        both = sparse.csr_array(by_item[start : start + _BLOCK] @ likes)
        for row in range(len(both.indptr) - 1):
            of_row = slice(both.indptr[row], both.indptr[row + 1])
            columns, shared = both.indices[of_row].astype(np.int32), both.data[of_row].astype(np.float64)
            other = columns != start + row
            columns, shared = columns[other], shared[other]
            similarity = shared / np.sqrt(n_users[start + row] * n_users[columns])
            best = _best(similarity, columns, top_k)
            neighbours.append(columns[best])
            scores.append(similarity[best])
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in neighbours])]).astype(np.int64)
    return ItemNeighbors(interactions.item_ids, indptr, np.concatenate(neighbours), np.concatenate(scores))


def _best(scores: NDArray[np.float64], columns: NDArray[np.int32], k: int) -> NDArray[np.int64]:
    """Places of the k highest scores by (-score, column)."""
    places = np.arange(len(scores))
    if len(scores) > k:
        places = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return places[np.lexsort((columns[places], -scores[places]))][:k]
