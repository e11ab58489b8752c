"""Who interacted with what, each pair once: what neighbours are counted from, and grown a day at a time."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.errors import DataError
from rec.i2i.pair_sums import ITEM_BITS, ITEM_MASK


@final
@dataclass(frozen=True, slots=True)
class PairLog:
    """A number for each pair of user and item that occurs.

    Attributes:
        keys: user << 32 | item of the positions in the vocabularies, ascending, int64, (n,).
        values: of the pairs, such as the time of the latest interaction, int64, (n,).
    """

    keys: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Self:
        """A log of nothing."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def of(
        cls, user: NDArray[np.integer], item: NDArray[np.integer], values: NDArray[np.int64], combine: np.ufunc
    ) -> Self:
        """The pairs of events, (m,); `combine` (np.maximum, np.add) makes one value of several of a pair."""
        keys = (user.astype(np.int64) << ITEM_BITS) | item
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        return cls(keys[first], combine.reduceat(values[order], first) if len(first) else values[:0])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def user(self) -> NDArray[np.int64]:
        """Position of each pair's user, (n,)."""
        return self.keys >> ITEM_BITS

    @property
    def item(self) -> NDArray[np.int64]:
        """Position of each pair's item, (n,)."""
        return self.keys & ITEM_MASK

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """The pairs of a mask."""
        return type(self)(self.keys[rows], self.values[rows])

    def with_pairs(self, later: "PairLog", combine: np.ufunc) -> Self:
        """The pairs of both, those of both logs with one value made of two."""
        place = np.searchsorted(self.keys, later.keys)
        known = np.zeros(len(later), np.bool_)
        known[place < len(self)] = self.keys[place[place < len(self)]] == later.keys[place < len(self)]
        values = self.values.copy()
        values[place[known]] = combine(values[place[known]], later.values[known])
        return type(self)(
            np.insert(self.keys, place[~known], later.keys[~known]),
            np.insert(values, place[~known], later.values[~known]),
        )

    def moved(self, users: NDArray[np.integer], items: NDArray[np.integer]) -> Self:
        """The same pairs where user u has become users[u] and item i items[i]."""
        keys = (users[self.user].astype(np.int64) << ITEM_BITS) | items[self.item]
        order = np.argsort(keys, kind="stable")
        return type(self)(keys[order], self.values[order])

    def changed_users(self, other: "PairLog", n_users: int) -> NDArray[np.bool_]:
        """Which users have other pairs, or other values, in the other log, (U,)."""
        changed = np.zeros(n_users, np.bool_)
        for here, there in ((self, other), (other, self)):
            place = np.minimum(np.searchsorted(there.keys, here.keys), max(len(there) - 1, 0))
            same = np.zeros(len(here), np.bool_)
            if len(there):
                same = (there.keys[place] == here.keys) & (there.values[place] == here.values)
            changed[here.user[~same]] = True
        return changed


def most_recent(
    group: NDArray[np.integer], time: NDArray[np.int64], tie_break: NDArray[np.uint64], most: int
) -> NDArray[np.bool_]:
    """Which rows are among the `most` latest of their group; of the same time, those of the highest tie_break, (n,)."""
    counts = np.bincount(group) if len(group) else np.zeros(0, np.int64)
    kept = counts[group] <= most
    rows = np.flatnonzero(~kept)
    order = rows[np.lexsort((~tie_break[rows], -time[rows], group[rows]))]
    _, first, size = np.unique(group[order], return_index=True, return_counts=True)
    kept[order[np.arange(len(order)) - np.repeat(first, size) < most]] = True
    return kept


def positions_in(ids: NDArray[np.object_], vocabulary: NDArray[np.object_], what: str) -> NDArray[np.int64] | None:
    """Where the ids are in a vocabulary, (M,); None when nothing has moved.

    Raises: DataError: for an id that is no longer there.
    """
    if ids is vocabulary or np.array_equal(ids, vocabulary[: len(ids)]):
        return None
    positions = pd.Index(vocabulary).get_indexer(pd.Index(ids))
    gone = np.flatnonzero(positions < 0)
    if len(gone):
        raise DataError(
            f"an update keeps every {what} there was, and {ids[gone[0]]!r} is not among those of the new interactions "
            f"({len(gone)} are missing); give them a vocabulary that holds the earlier ones, too, or build again"
        )
    return positions
