"""Drawing batches: the same on every worker, so that each can take its part of one global batch."""

from collections.abc import Sequence
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
        pools: items that negatives of the query alone are drawn from, -1 where there are fewer, (B, L).
        own: negatives drawn for the query alone, -1 where its pool is empty, (B, H).
        log_q: log probability of each of `items()` per draw of a target, (C,); None where `RetrievalData.log_q` has it.
    """

    group: int
    queries: NDArray[np.int64]
    targets: NDArray[np.int32]
    uniform: NDArray[np.int32]
    pools: NDArray[np.int32] | None = None
    own: NDArray[np.int32] | None = None
    log_q: NDArray[np.float32] | None = None

    def items(self) -> NDArray[np.int64]:
        """All items of the batch, ascending, each once, (C,)."""
        drawn = [self.targets.ravel(), self.uniform]
        if self.own is not None:
            drawn.append(self.own[self.own >= 0])
        return np.unique(np.concatenate(drawn)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    """One global batch: rounds that share a snapshot, and what seeds the draws for it.

    Attributes: snapshot: of items. rows: of the rounds, (B,). seed: of the run, epoch, and step in the epoch.
    """

    snapshot: int
    rows: NDArray[np.int64]
    seed: tuple[int, int, int]


def systematic_sample(weights: NDArray[np.floating], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n positions, each n * weight / sum of weights times, rounded up or down at random and without bias.

    With n equal weights it is each position once. Source: Madow (1949), doi:10.1214/aoms/1177729988.

    Args: weights: at least 0, not all 0, (Q,). n: number of draws. rng: source of the one random number needed.
    Returns: ascending positions, (n,).
    """
    bounds = np.cumsum(weights, dtype=np.float64)
    points = (np.arange(n) + rng.random()) * (bounds[-1] / n)
    return np.minimum(np.searchsorted(bounds, points, side="right"), np.flatnonzero(weights)[-1])


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows sorted by group: those of group g are order[bounds[g]:bounds[g + 1]]; weight is each group's share."""

    order: NDArray[np.int64]
    bounds: NDArray[np.int64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, groups: NDArray[np.integer], weights: NDArray[np.floating]) -> "Groups":
        """Groups of rows, (n,); rows of weight 0 are never drawn."""
        n_groups = int(groups.max()) + 1
        order = np.argsort(groups, kind="stable")
        bounds = np.searchsorted(groups[order], np.arange(n_groups + 1))
        weight = np.bincount(groups, weights=weights, minlength=n_groups).astype(np.float64)
        return cls(order, bounds, weight)


def grouped_batches(
    groups: Groups, weights: NDArray[np.floating], n: int, size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw n rows in batches that each hold rows of one group, groups and rows in proportion to the weights.

    With one group and n equal weights it is each row once, in random order. All batches have `size` rows but one, which
    holds what is left.

    Args: groups: of the rows. weights: of the rows, (R,). n: rows to draw. size: the most rows of a batch. rng: of all.
    Returns: positions of the rows of each batch.
    """
    n_batches = -(-n // size)
    group = rng.permutation(systematic_sample(groups.weight, n_batches, rng))
    sizes = np.full(n_batches, size)
    sizes[-1] = n - size * (n_batches - 1)
    batches: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * n_batches
    for chosen in np.unique(group):
        places = np.flatnonzero(group == chosen)
        rows = groups.order[groups.bounds[chosen] : groups.bounds[chosen + 1]]
        drawn = rng.permutation(rows[systematic_sample(weights[rows], int(sizes[places].sum()), rng)])
        for place, part in zip(places, np.split(drawn, np.cumsum(sizes[places])[:-1]), strict=True):
            batches[place] = part
    return batches


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


def row_uniforms(
    seed: Sequence[int], rows: slice, n: int, dtype: type[np.float32 | np.float64] = np.float32
) -> NDArray[np.floating]:
    """N uniform numbers for each row of a global batch, the same whichever worker computes the row.

    The generator counts, so that one can begin at any row without drawing what is before it.
    Source: Salmon et al. (2011), Philox, doi:10.1145/2063384.2063405.

    Args: seed: what tells this batch from others, such as seed, epoch and step. rows: start and stop of the worker's
        rows. n: numbers of each row. dtype: float32, or float64 where 24 bits are too few.
    Returns: in [0, 1), (rows, n).
    """
    # One count gives 256 bits.
    per_count = 32 // np.dtype(dtype).itemsize
    counts = -(-n // per_count)
    bits = np.random.Philox(np.random.SeedSequence(seed)).advance(rows.start * counts)
    numbers = np.random.Generator(bits).random((rows.stop - rows.start, per_count * counts), dtype=dtype)
    return numbers[:, :n]
