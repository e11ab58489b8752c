"""What may be shown: the catalogue minus exclusions, and rules that depend on the items above."""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_REJECTIONS = 16


@final
@dataclass(frozen=True, slots=True)
class GroupCap:
    """At most `limit` items of one group, such as a creator, in one slate.

    Once `limit` items of a group are shown, its other items are no longer eligible.

    Attributes:
        groups: group of each item, 0..G-1, -1 for an item without a group, which no cap concerns, (N,).
        limit: items of one group a slate may hold, at least 1.
        sizes: items in each group, (G,).
    """

    groups: IntArray
    limit: int
    sizes: IntArray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        groups = np.asarray(self.groups, dtype=np.int64)
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1; found {self.limit}")
        if groups.ndim != 1 or (len(groups) and groups.min() < -1):
            raise ValueError("groups must hold one group per item of the catalogue, 0 or more, or -1 for none")
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "sizes", np.bincount(groups[groups >= 0]))

    def of(self, items: NDArray[np.integer[Any]]) -> IntArray:
        """The group of each item, -1 for no group and for no item (-1); any shape."""
        return np.where(items >= 0, self.groups[items], -1)

    def closed_by(self, shown: NDArray[np.integer[Any]]) -> IntArray:
        """The group that the last item of each slate has filled, or -1.

        Args: shown: items from the top, -1 where a slate has ended, (B, t) with t >= 1.
        Returns: (B,).
        """
        groups = self.of(shown)
        last = groups[:, -1]
        full = (groups == last[:, None]).sum(axis=1) == self.limit
        return np.where(full & (last >= 0), last, -1)

    def fits(self, items: NDArray[np.integer[Any]]) -> BoolArray:
        """Which items of lists from the top a slate holds that takes all the cap allows; items (B, M), -1 for none."""
        groups = self.of(items)
        order = np.argsort(groups, axis=1, kind="stable")
        ordered = np.take_along_axis(groups, order, axis=1)
        place = np.arange(items.shape[1])
        begins = np.ones(items.shape, dtype=bool)
        begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        above = place - np.maximum.accumulate(np.where(begins, place, 0), axis=1)
        taken = np.empty(items.shape, dtype=bool)
        np.put_along_axis(taken, order, (above < self.limit) | (ordered < 0), axis=1)
        return taken

    def is_closed(self, shown: NDArray[np.integer[Any]], items: NDArray[np.integer[Any]]) -> BoolArray:
        """Whether each item's group has been filled by the slate above it; shown (B, t), items (B,), returns (B,)."""
        wanted = self.of(items)
        return ((self.of(shown) == wanted[:, None]).sum(axis=1) >= self.limit) & (wanted >= 0)


@final
@dataclass(frozen=True, slots=True)
class Eligible:
    """What may be shown to each of B users, before the first item: the whole catalogue minus exclusions.

    The space taken is that of the exclusions; nothing has the size of the catalogue times users.

    Attributes:
        n_items: size of the catalogue, N; items are the positions 0..N-1.
        excluded_indptr, excluded: items that must not be shown, one run a user, in any order, repeats allowed; as in
            `UserStates`; (B + 1,) and (nnz,).
        cap: limits items of one group, or None.
    """

    n_items: int
    excluded_indptr: IntArray
    excluded: NDArray[np.integer[Any]]
    cap: GroupCap | None = None

    def __post_init__(self) -> None:
        indptr, excluded = self.excluded_indptr, self.excluded
        if indptr.ndim != 1 or len(indptr) < 1 or indptr[0] != 0 or indptr[-1] != len(excluded):
            raise ValueError("excluded_indptr must run from 0 to len(excluded), one entry more than there are users")
        if len(excluded) and (int(excluded.min()) < 0 or int(excluded.max()) >= self.n_items):
            raise ValueError(f"excluded items must be positions 0..{self.n_items - 1} of the catalogue")
        if self.cap is not None and len(self.cap.groups) != self.n_items:
            raise ValueError(f"the cap has groups for {len(self.cap.groups)} items; the catalogue has {self.n_items}")

    @classmethod
    def everything(cls, n_users: int, n_items: int, cap: GroupCap | None = None) -> "Eligible":
        """The whole catalogue, for each of n_users."""
        return cls(n_items, np.zeros(n_users + 1, dtype=np.int64), np.zeros(0, dtype=np.int32), cap)

    def __len__(self) -> int:
        return len(self.excluded_indptr) - 1


@final
class RemainingItems:
    """The eligible items of B users not yet shown, while slates of k items are drawn from the top.

    Attributes: count: number of eligible items that remain, |E|, (B,).
    """

    def __init__(self, eligible: Eligible, k: int) -> None:
        n_users = len(eligible)
        self._n_items = eligible.n_items
        self._cap = eligible.cap
        self._keys = _sorted_keys(eligible)
        self._start = np.searchsorted(self._keys, np.arange(n_users + 1) * eligible.n_items)
        lengths = np.diff(self._start)
        # Free items before each excluded one, as keys: they rise within a row, since excluded items are distinct.
        self._free_before = self._keys - (np.arange(len(self._keys)) - np.repeat(self._start[:-1], lengths))
        self._n_free = eligible.n_items - lengths
        self._shown = np.full((n_users, k), -1, dtype=np.int64)
        self._depth = 0
        self.count = self._n_free.copy()

    def n_excluded_among(self, items: NDArray[np.integer[Any]]) -> IntArray:
        """How many of each row's items are excluded; (B, M), -1 for none, rows ascending; returns (B,)."""
        rows, columns = np.nonzero(items >= 0)
        keys = rows * self._n_items + items[rows, columns]
        needles, sorted_ = (self._keys, keys) if len(self._keys) < len(keys) else (keys, self._keys)
        if not len(needles):
            return np.zeros(len(items), dtype=np.int64)
        at = np.searchsorted(sorted_, needles)
        found = needles[np.take(sorted_, at, mode="clip") == needles]
        return np.bincount(found // self._n_items, minlength=len(items))

    def show(self, items: IntArray) -> IntArray | None:
        """Puts one item, or -1 where the slate has ended, under each slate.

        Returns: the group this closes, or -1, (B,); None where there is no cap.
        """
        self._shown[:, self._depth] = items
        self._depth += 1
        self.count -= items >= 0
        if self._cap is None:
            return None
        closed = self._cap.closed_by(self._shown[:, : self._depth])
        rows = np.flatnonzero(closed >= 0)
        if len(rows):
            excluded = self._excluded_of_groups(closed)
            self.count[rows] -= self._cap.sizes[closed[rows]] - excluded[rows] - self._cap.limit
        return closed

    def draw(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """One uniform draw out of the remaining items of each of these rows; (r,) to (r,).

        A number 0..n-1 is drawn and turned into the item that many free items from the start, which needs no look at
        the catalogue. Items of closed groups are rejected; a row that stays unlucky is drawn from its list of
        remaining items, so the draw is uniform whatever the exclusions.
        """
        cap = self._cap
        if cap is None:
            return self._draw_unshown(rows, rng)
        items = np.full(len(rows), -1, dtype=np.int64)
        pending = np.arange(len(rows))
        for _ in range(_REJECTIONS):
            items[pending] = self._draw_unshown(rows[pending], rng)
            shown = self._shown[rows[pending], : self._depth]
            pending = pending[cap.is_closed(shown, items[pending])]
            if not len(pending):
                return items
        for at in pending:
            items[at] = rng.choice(self._remaining(int(rows[at]), cap))
        return items

    def _draw_unshown(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        # Ranks count the items that are not excluded: first step over those shown, then over those excluded.
        offset = rows * self._n_items
        rank = rng.integers(0, self._n_free[rows] - self._depth)
        if self._depth:
            shown = self._shown[rows, : self._depth]
            excluded_before = np.searchsorted(self._keys, offset[:, None] + shown) - self._start[rows][:, None]
            shown_ranks = np.sort(shown - excluded_before, axis=1)
            rank += (shown_ranks - np.arange(self._depth) <= rank[:, None]).sum(axis=1)
        return rank + np.searchsorted(self._free_before, offset + rank, side="right") - self._start[rows]

    def _excluded_of_groups(self, groups: IntArray) -> IntArray:
        """Excluded items of one group per row; (B,) to (B,)."""
        assert self._cap is not None
        row, item = np.divmod(self._keys, self._n_items)
        return np.bincount(row[self._cap.groups[item] == groups[row]], minlength=len(groups))

    def _remaining(self, row: int, cap: GroupCap) -> IntArray:
        shown = self._shown[row, : self._depth]
        free = np.ones(self._n_items, dtype=bool)
        free[self._keys[self._start[row] : self._start[row + 1]] - row * self._n_items] = False
        free[shown] = False
        items = np.flatnonzero(free)
        return items[~cap.is_closed(np.broadcast_to(shown, (len(items), self._depth)), items)]


def _sorted_keys(eligible: Eligible) -> IntArray:
    """Row times N plus item of every exclusion, ascending and unique, (nnz,)."""
    lengths = np.diff(eligible.excluded_indptr)
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    keys = rows * eligible.n_items + eligible.excluded
    return keys if (np.diff(keys) > 0).all() else np.unique(keys)
