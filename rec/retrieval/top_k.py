"""The best of every item's score: exact, deterministic, and in blocks of users that fit into memory."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rec.errors import ScoreError
from rec.state import Candidates, UserStates

BLOCK_SCORES: Final = 2**22


def top_k(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The k best items of each row, best first, ties by item position.

    Args:
        scores: any float, (B, N); -inf marks an item that must not be chosen.
        k: how many, at least 1.

    Returns: items (B, k), -1 where a row has fewer, and their scores (B, k), -inf where items is -1.
    Raises: ScoreError: for a score that is NaN or +inf.
    """
    if np.isnan(scores).any() or np.isposinf(scores).any():
        row, item = np.argwhere(np.isnan(scores) | np.isposinf(scores))[0]
        raise ScoreError(f"scores must be finite, or -inf to leave an item out; item {item} has {scores[row, item]}")
    users, n_items = scores.shape
    kept = min(k, n_items)
    items = np.full((users, k), -1, np.int32)
    values = np.full((users, k), -np.inf)
    if not users or not kept:
        return items, values
    chosen = _best(scores, kept)
    found = np.take_along_axis(scores, chosen, axis=1).astype(np.float64)
    order = np.argsort(-found, axis=1, kind="stable")
    values[:, :kept] = np.take_along_axis(found, order, axis=1)
    items[:, :kept] = np.where(np.isneginf(values[:, :kept]), -1, np.take_along_axis(chosen, order, axis=1))
    return items, values


def _best(scores: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """Positions of the k best of each row in ascending order; among equals the lowest positions, (B, k)."""
    users, n_items = scores.shape
    kth = np.partition(scores, n_items - k, axis=1)[:, n_items - k, None]
    above = scores > kth
    tied = scores == kth
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room))
    return np.nonzero(chosen)[1].reshape(users, k)


def best_of_catalogue(
    states: UserStates, k: int, n_items: int, score: Callable[[UserStates], NDArray[np.floating]], source: str
) -> Candidates:
    """Candidates of a source that scores every item.

    Args:
        states: the users.
        k: candidates a user.
        n_items: size of the catalogue, N.
        score: scores of a block of users in an array that may be changed, (B, N).
        source: name of the source.
    """
    items = np.full((len(states), k), -1, np.int32)
    values = np.full((len(states), k), -np.inf)
    for rows in blocks(len(states), max(1, BLOCK_SCORES // max(n_items, 1))):
        block = states.rows(rows)
        scores = score(block)
        owners = np.repeat(np.arange(len(block)), np.diff(block.excluded_indptr))
        scores[owners, block.excluded] = -np.inf
        items[rows], values[rows] = top_k(scores, k)
    return Candidates(items, values, source)


def same_for_all(scores: NDArray[np.float64], states: UserStates, k: int, source: str) -> Candidates:
    """Candidates of a source whose scores (N,) are the same for everybody; -inf for what is never a candidate."""

    def everybody(block: UserStates) -> NDArray[np.float64]:
        return np.tile(scores, (len(block), 1))

    return best_of_catalogue(states, k, len(scores), everybody, source)


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` rows that cover n rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
