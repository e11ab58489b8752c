"""The sums of Swing, compiled: every pair of users adds its weight to every pair of the items that both have.

Weights are rounded to multiples of a power of two, so that sums are exact integers. They come out the same in any order
and for any division of the work, and what a pair of users has added can be taken away again.
"""

from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from scipy import sparse

from rec.config import SwingConfig
from rec.i2i.pair_sums import ITEM_BITS, PairSums

# Up to so many pairs of items each has its place in one array; beyond, they are hashed.
_DIRECT_PAIRS: Final = 2**25
_HASH_PLACES: Final = 2**20
# A row of items is added to as a whole when the shared ones are more than one in so many.
_DENSE: Final = 3


def unit_bits(config: SwingConfig) -> int:
    """The q for which weights are rounded to multiples of 2^-q: the finest for which no sum can overflow.

    A pair of items has at most as many pairs of users as the cap on users allows, each of a weight of at most
    (2 + user_offset)^(-2 user_power) / (alpha + 2), as both have two items or more. The lightest weight that the caps
    allow is 128 units or more, as `SwingConfig` refuses what is spread wider.
    """
    pairs = config.max_users_per_item * (config.max_users_per_item - 1) / 2
    heaviest = (2 + config.user_offset) ** (-2 * config.user_power) / (config.alpha + 2)
    return 62 - int(np.ceil(np.log2(pairs * heaviest)))


@final
@dataclass(frozen=True, slots=True)
class UserPairs:
    """The pairs of users of whom at least one is among the chosen: whose weights to add up.

    Users are in an order of their own, the chosen ones first, and among them those of fewer items first: the pairs of
    user u are those with users behind u, and tables of what u shares with them stay small.

    Attributes:
        user_indptr, user_items: items of each user, ascending, int64 (U + 1,) and uint32 (nnz,).
        item_indptr, item_users: users of each item, ascending, int64 (N + 1,) and uint32 (nnz,).
        user_weights: (|I_u| + user_offset)^-user_power, (U,).
        n_chosen: how many of the users are chosen.
        alpha: smoothing of the overlap.
        unit_bits: see `unit_bits`.
    """

    user_indptr: NDArray[np.int64]
    user_items: NDArray[np.uint32]
    item_indptr: NDArray[np.int64]
    item_users: NDArray[np.uint32]
    user_weights: NDArray[np.float64]
    n_chosen: int
    alpha: float
    unit_bits: int

    @classmethod
    def of(
        cls,
        user: NDArray[np.integer],
        item: NDArray[np.integer],
        n_items: int,
        config: SwingConfig,
        chosen: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The pairs of the users of a log.

        Args: user, item: unique pairs of positions, by user, then item, (n,). n_items: N. chosen: of each user, (U,);
            None: all are.
        """
        counts = np.bincount(user) if len(user) else np.zeros(0, np.int64)
        is_chosen = np.ones(len(counts), np.bool_) if chosen is None else chosen[: len(counts)]
        order = np.lexsort((counts, ~is_chosen))
        rows = sparse.csr_array(
            (np.ones(len(user), np.bool_), item.astype(np.int32), np.concatenate([[0], np.cumsum(counts)])),
            shape=(len(counts), n_items),
        )[order]
        columns = rows.tocsc()
        weight_of_count = np.array(
            [(count + config.user_offset) ** -config.user_power for count in range(1, counts.max(initial=0) + 1)]
        )
        return cls(
            rows.indptr.astype(np.int64),
            rows.indices.astype(np.uint32),
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.uint32),
            weight_of_count[np.maximum(counts[order], 1) - 1],
            int(is_chosen.sum()),
            config.alpha,
            unit_bits(config),
        )

    @property
    def n_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.item_indptr) - 1

    def blocks(self, n_blocks: int) -> list[tuple[int, int]]:
        """Runs of chosen users, first and last excluded, of about the same work; none without such users."""
        if not self.n_chosen:
            return []
        degrees = np.diff(self.item_indptr)
        with_others = np.concatenate([[0], np.cumsum(degrees[self.user_items])])[self.user_indptr]
        work = np.cumsum((np.diff(with_others) * np.diff(self.user_indptr))[: self.n_chosen])
        ends = np.searchsorted(work, work[-1:] * np.arange(1, n_blocks) / n_blocks) + 1
        bounds = np.unique(np.concatenate([[0], np.minimum(ends, self.n_chosen), [self.n_chosen]]))
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def sums(self, start: int, stop: int) -> tuple[PairSums, int]:
        """What the pairs of the users start:stop add up to, and how many additions that took."""
        if start == stop:
            return PairSums.total([]), 0
        keys, sums, additions = _sums(
            self.user_indptr,
            self.user_items,
            self.item_indptr,
            self.item_users,
            self.user_weights,
            self.alpha,
            float(2**self.unit_bits),
            start,
            stop,
        )
        return PairSums(keys, sums), int(additions)


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _sums(user_indptr, user_items, item_indptr, item_users, user_weights, alpha, scale, start, stop):
    """`UserPairs.sums` as keys, sums and the number of additions."""
    n_users, n_items = len(user_indptr) - 1, len(item_indptr) - 1
    direct = n_items * (n_items - 1) // 2 <= _DIRECT_PAIRS
    places = n_items * (n_items - 1) // 2 if direct else _HASH_PLACES
    sums = np.zeros(places, np.int64)
    keys = np.full(0 if direct else places, -1, np.int64)
    used, additions = 0, 0

    most = 0
    for u in range(start, stop):
        most = max(most, user_indptr[u + 1] - user_indptr[u])
    # What the current user shares with each user behind: how many items, which ones, and whom there are.
    n_shared = np.zeros(n_users, np.int32)
    first_shared = np.zeros(n_users, np.int64)
    behind = np.empty(n_users, np.uint32)
    shared = np.empty(1024, np.uint32)
    table = np.zeros((most, most), np.int64)
    spread = np.zeros(most, np.int64)

    for u in range(start, stop):
        items = user_items[user_indptr[u] : user_indptr[u + 1]]
        n = len(items)
        n_behind, total = 0, 0
        for a in range(n):
            users = item_users[item_indptr[items[a]] : item_indptr[items[a] + 1]]
            for place in range(np.searchsorted(users, u) + 1, len(users)):
                v = users[place]
                if n_shared[v] == 0:
                    behind[n_behind] = v
                    n_behind += 1
                n_shared[v] += 1
                total += 1
        if total > len(shared):
            shared = np.empty(2 * total, np.uint32)
        end = 0
        for place in range(n_behind):
            first_shared[behind[place]] = end
            end += n_shared[behind[place]]
        for a in range(n):
            users = item_users[item_indptr[items[a]] : item_indptr[items[a] + 1]]
            for place in range(np.searchsorted(users, u) + 1, len(users)):
                v = users[place]
                shared[first_shared[v]] = a
                first_shared[v] += 1

        for place in range(n_behind):
            v = behind[place]
            size = n_shared[v]
            n_shared[v] = 0
            if size < 2:
                continue
            both = shared[first_shared[v] - size : first_shared[v]]
            weight = np.int64(np.rint(user_weights[u] * user_weights[v] / (alpha + size) * scale))
            additions += size * (size - 1) // 2
            if size * _DENSE > n:
                for q in range(size):
                    spread[both[q]] = weight
                for p in range(size - 1):
                    row, added = table[both[p], both[p + 1] : n], spread[both[p + 1] : n]
                    for b in range(len(row)):
                        row[b] += added[b]
                for q in range(size):
                    spread[both[q]] = 0
            else:
                for p in range(size - 1):
                    row = table[both[p]]
                    for q in range(p + 1, size):
                        row[both[q]] += weight

        if not direct and 2 * (used + n * (n - 1) // 2) > len(keys):
            size = len(keys)
            while 2 * (used + n * (n - 1) // 2) > size:
                size *= 2
            keys, sums = _rehashed(keys, sums, size)
        for a in range(n - 1):
            row = table[a]
            # Pairs i < j of rows 0..i-1 come before those of row i: i (2 N - i - 1) / 2 of them.
            base = items[a] * (2 * n_items - items[a] - 1) // 2 - items[a] - 1
            for b in range(a + 1, n):
                if row[b] == 0:
                    continue
                if direct:
                    place = base + items[b]
                else:
                    key = (np.int64(items[a]) << ITEM_BITS) | np.int64(items[b])
                    place = _place(keys, key)
                    if keys[place] == -1:
                        keys[place] = key
                        used += 1
                sums[place] += row[b]
                row[b] = 0
    if direct:
        found_keys, found_sums = _listed(sums, n_items)
    else:
        filled = np.flatnonzero(keys >= 0)
        filled = filled[np.argsort(keys[filled])]
        found_keys, found_sums = keys[filled], sums[filled]
    return found_keys, found_sums, additions


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _place(keys, key):
    """Where a key is, or has to go, in a table whose size is a power of two."""
    mask = len(keys) - 1
    # Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
    place = ((key * -7046029254386353131) >> 20) & mask
    while keys[place] != -1 and keys[place] != key:
        place = (place + 1) & mask
    return place


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _rehashed(keys, sums, size):
    """The same table with more places."""
    larger_keys = np.full(size, -1, np.int64)
    larger_sums = np.zeros(size, np.int64)
    for old in range(len(keys)):
        if keys[old] != -1:
            place = _place(larger_keys, keys[old])
            larger_keys[place] = keys[old]
            larger_sums[place] = sums[old]
    return larger_keys, larger_sums


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _listed(triangle, n_items):
    """Keys and sums of a table that has a place for every pair."""
    size = 0
    for place in range(len(triangle)):
        size += triangle[place] != 0
    keys = np.empty(size, np.int64)
    sums = np.empty(size, np.int64)
    place, size = 0, 0
    for i in range(n_items):
        for j in range(i + 1, n_items):
            if triangle[place] != 0:
                keys[size] = (np.int64(i) << ITEM_BITS) | np.int64(j)
                sums[size] = triangle[place]
                size += 1
            place += 1
    return keys, sums
