"""The nearest items of each item, and their table."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

from rec.errors import BundleError
from rec.i2i.pair_sums import ITEM_BITS, ITEM_MASK


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


def nearest(
    keys: NDArray[np.int64], scores: NDArray[np.float64], item_ids: NDArray[np.object_], top_k: int
) -> ItemNeighbors:
    """The top_k items of the highest score of each item, both items of a pair being neighbours of each other.

    Args: keys: pairs of items as in `PairSums`, ascending, (P,). scores: of the pairs; those not above 0 are no
        neighbours, (P,). item_ids: the vocabulary. top_k: neighbours kept of each item, at least 1.
    """
    return ItemNeighbors(item_ids, *_nearest(keys, scores, len(item_ids), top_k))


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _nearest(keys, scores, n_items, top_k):
    """`nearest` as indptr, indices and scores."""
    start = np.zeros(n_items + 1, np.int64)
    for pair in range(len(keys)):
        if scores[pair] > 0:
            start[(keys[pair] >> ITEM_BITS) + 1] += 1
            start[(keys[pair] & ITEM_MASK) + 1] += 1
    start = np.cumsum(start)
    # Of each row first the items below, then those above: both come in ascending order, as the keys do.
    place = start[:-1].copy()
    others = np.empty(start[-1], np.int32)
    values = np.empty(start[-1], np.float64)
    for pair in range(len(keys)):
        if scores[pair] > 0:
            row, other = keys[pair] & ITEM_MASK, keys[pair] >> ITEM_BITS
            others[place[row]], values[place[row]] = other, scores[pair]
            place[row] += 1
    for pair in range(len(keys)):
        if scores[pair] > 0:
            row, other = keys[pair] >> ITEM_BITS, keys[pair] & ITEM_MASK
            others[place[row]], values[place[row]] = other, scores[pair]
            place[row] += 1
    indptr = np.zeros(n_items + 1, np.int64)
    for row in range(n_items):
        indptr[row + 1] = indptr[row] + min(top_k, start[row + 1] - start[row])
    indices = np.empty(indptr[-1], np.int32)
    best = np.empty(indptr[-1], np.float64)
    for row in range(n_items):
        first, size, kept = start[row], start[row + 1] - start[row], indptr[row + 1] - indptr[row]
        chosen = np.arange(first, first + size)
        if size > kept:
            # A partition would take less, and ten times as long to compile.
            lowest = np.sort(values[first : first + size])[size - kept]
            chosen = chosen[values[first : first + size] >= lowest]
        order = chosen[np.argsort(-values[chosen], kind="mergesort")[:kept]]
        indices[indptr[row] : indptr[row + 1]] = others[order]
        best[indptr[row] : indptr[row + 1]] = values[order]
    return indptr, indices, best


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
