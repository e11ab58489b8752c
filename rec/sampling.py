"""Drawing batches: the same on every worker, so that each can take its part of one global batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class QueryBatch:
    """One global batch of queries that share a group.

    Attributes:
        group: what the queries have in common, such as a snapshot.
        queries: positions of the queries, (B,).
        targets: an item each query is to find, (B, P).
        uniform: items drawn uniformly beside them, (M,).
    """

    group: int
    queries: NDArray[np.int64]
    targets: NDArray[np.int32]
    uniform: NDArray[np.int32]


def systematic_sample(weights: NDArray[np.floating], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n positions, each n * weight / sum of weights times, rounded up or down at random and without bias.

    With n equal weights it is each position once. Source: Madow (1949), doi:10.1214/aoms/1177729988.

    Args: weights: at least 0, not all 0, (Q,). n: number of draws. rng: source of the one random number needed.
    Returns: ascending positions, (n,).
    """
    bounds = np.cumsum(weights, dtype=np.float64)
    points = (np.arange(n) + rng.random()) * (bounds[-1] / n)
    return np.minimum(np.searchsorted(bounds, points, side="right"), np.flatnonzero(weights)[-1])


def batches_by_group(groups: NDArray[np.integer], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows in random order, cut into batches within each group, the batches in random order.

    A group's batches are as equal in size as can be and no larger than `size`; with one group, all are `size` but the
    last.

    Args: groups: group of each row, (n,). size: the most rows of a batch. rng: of both orders.
    Returns: row positions of each batch; together each row once.
    """
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order[:1]] - 1))
    batches: list[NDArray[np.int64]] = []
    for rows in np.split(order, starts[1:]):
        if len(starts) == 1:
            batches.extend(np.split(rows, range(size, len(rows), size)))
        else:
            batches.extend(np.array_split(rows, -(-len(rows) // size)))
    return [batches[place] for place in rng.permutation(len(batches))]


def draw_within(
    start: NDArray[np.integer], end: NDArray[np.integer], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw n positions of each run start:end, uniformly and with replacement, (B, n); no run is empty."""
    return start[:, None] + (rng.random((len(start), n)) * (end - start)[:, None]).astype(np.int64)


def run_mass(
    start: NDArray[np.integer], end: NDArray[np.integer], weights: NDArray[np.floating], length: int
) -> NDArray[np.float64]:
    """Weight on each of `length` positions when each run start:end spreads its own evenly, (length,)."""
    density = weights / (end - start)
    steps = np.bincount(start, weights=density, minlength=length + 1)
    steps -= np.bincount(end, weights=density, minlength=length + 1)
    # Differences of equal sums leave rounding dust, which must not become a negative probability.
    return np.maximum(np.cumsum(steps)[:length], 0.0)


def runs(start: NDArray[np.integer], end: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs start:end laid end to end: which run each element is of, and its position, both (total,)."""
    lengths = end - start
    owner = np.repeat(np.arange(len(start)), lengths)
    offset = np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    return owner, np.arange(len(owner)) + offset
