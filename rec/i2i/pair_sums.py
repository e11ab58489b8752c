"""Sums over pairs of items, as integers: exact, so that the order of addition does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

ITEM_BITS: Final = 32
ITEM_MASK: Final = (1 << ITEM_BITS) - 1


@final
@dataclass(frozen=True, slots=True)
class PairSums:
    """A sum for each pair of items for which it is not 0.

    Attributes:
        keys: i << 32 | j of the pair of positions i < j, ascending, int64, (P,).
        sums: int64, (P,).
    """

    keys: NDArray[np.int64]
    sums: NDArray[np.int64]

    @classmethod
    def total(cls, parts: "Sequence[PairSums]") -> "PairSums":
        """The sums of all parts together; of none, nothing."""
        parts = list(parts) or [cls(np.empty(0, np.int64), np.empty(0, np.int64))]
        while len(parts) > 1:
            merged = [
                PairSums(*_merged(left.keys, left.sums, right.keys, right.sums))
                for left, right in zip(parts[::2], parts[1::2], strict=False)
            ]
            parts = merged + parts[2 * len(merged) :]
        return parts[0]

    @classmethod
    def chained(cls, runs: "Sequence[PairSums]") -> Self:
        """What `split` took apart."""
        return cls(np.concatenate([run.keys for run in runs]), np.concatenate([run.sums for run in runs]))

    def __len__(self) -> int:
        return len(self.keys)

    def __neg__(self) -> Self:
        return type(self)(self.keys, -self.sums)

    def items(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions i and j of each pair, (P,) and (P,)."""
        return self.keys >> ITEM_BITS, self.keys & ITEM_MASK

    def moved(self, positions: NDArray[np.integer]) -> Self:
        """The same sums where item i has become item positions[i], (M,)."""
        i, j = (positions[item].astype(np.int64) for item in self.items())
        keys = (np.minimum(i, j) << ITEM_BITS) | np.maximum(i, j)
        order = np.argsort(keys, kind="stable")
        return type(self)(keys[order], self.sums[order])

    def split(self, n_parts: int, n_items: int) -> "list[PairSums]":
        """Runs of the pairs, by equal ranges of the first item; parts of other sums fall into the same ranges."""
        first_items = np.arange(n_parts + 1) * n_items // n_parts
        bounds = np.searchsorted(self.keys, first_items.astype(np.int64) << ITEM_BITS)
        return [PairSums(self.keys[start:stop], self.sums[start:stop]) for start, stop in pairwise(bounds)]


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _merged(left_keys, left_sums, right_keys, right_sums):
    """Keys and sums of both, those that add up to 0 left out."""
    keys = np.empty(len(left_keys) + len(right_keys), np.int64)
    sums = np.empty(len(keys), np.int64)
    left, right, size = 0, 0, 0
    while left < len(left_keys) or right < len(right_keys):
        if right == len(right_keys) or (left < len(left_keys) and left_keys[left] < right_keys[right]):
            keys[size], sums[size] = left_keys[left], left_sums[left]
            left += 1
        elif left == len(left_keys) or right_keys[right] < left_keys[left]:
            keys[size], sums[size] = right_keys[right], right_sums[right]
            right += 1
        else:
            keys[size], sums[size] = left_keys[left], left_sums[left] + right_sums[right]
            left += 1
            right += 1
        if sums[size] != 0:
            size += 1
    return keys[:size].copy(), sums[:size].copy()
