"""Swing: items are near when pairs of users who have little else in common share both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rec.config import SwingConfig
from rec.data.dataset import Interactions
from rec.errors import DataError
from rec.i2i.neighbors import ItemNeighbors, nearest
from rec.i2i.pair_log import PairLog, most_recent, positions_in
from rec.i2i.pair_sums import PairSums
from rec.i2i.swing_pairs import UserPairs, unit_bits

AddUp = Callable[[UserPairs], tuple[PairSums, int]]
"""What adds up the weights of pairs of users: the sums, and how many additions that took."""


def swing(
    user_ids: ArrayLike,
    item_ids: ArrayLike,
    *,
    alpha: float = 1.0,
    user_offset: float = 5.0,
    user_power: float = 0.35,
    top_k: int = 100,
    max_items_per_user: int = 200,
    max_users_per_item: int = 1000,
    rng: np.random.Generator,
    times: ArrayLike | None = None,
) -> ItemNeighbors:
    """The nearest items of each item by Swing.

    score(i, j) = sum over the unordered pairs of users {u, v} who both have i and j of w_u w_v / (alpha + |I_u n I_v|),
    w_u = (|I_u| + user_offset)^-user_power. Source: Yang et al. (2020), arXiv:2010.05525; differs from it in the
    offset and the power, which are 0 and 1/2 there, and in the caps.

    Each pair of user and item counts once, at its latest time. The caps keep the most recent: first items of a user,
    then users of an item; |I_u| and intersections count what is left.

    Args: user_ids, item_ids: of each interaction, (n,). alpha: smoothing of the overlap, at least 0. user_offset,
        user_power: of the weight of a user. top_k: neighbours kept of each item. max_items_per_user,
        max_users_per_item: the caps. rng: decides which interactions of the same time a cap keeps. times: when each
        happened, (n,); None: in the order given, so that there are no ties.
    Returns: neighbours under the sorted ids of the items.
    Raises: DataError: for columns of different lengths, ids that are missing, and times that are no whole numbers.
        ValidationError: for options out of range.
    """
    users, items = _ids("user_ids", user_ids), _ids("item_ids", item_ids)
    moments = np.arange(len(users)) if times is None else _whole_numbers("times", times)
    for name, column in (("item_ids", items), ("times", moments)):
        if len(column) != len(users):
            raise DataError(f"must have one value of each interaction: {len(users)}, found {len(column)}", column=name)
    user, user_vocabulary = users.factorize(sort=True)
    item, item_vocabulary = items.factorize(sort=True)
    interactions = Interactions(
        user_ids=np.asarray(user_vocabulary, dtype=object),
        item_ids=np.asarray(item_vocabulary, dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=moments,
    )
    config = SwingConfig(
        alpha=alpha,
        user_offset=user_offset,
        user_power=user_power,
        top_k=top_k,
        max_items_per_user=max_items_per_user,
        max_users_per_item=max_users_per_item,
    )
    return SwingSums.build(interactions, config, rng=rng).neighbors()


def _ids(name: str, values: ArrayLike) -> pd.Index:
    """A column of ids, (n,)."""
    column = np.asarray(values, dtype=object)
    if column.ndim != 1:
        raise DataError(f"must be one column, found an array of shape {column.shape}", column=name)
    missing = pd.isna(column)
    if missing.any():
        row = int(missing.argmax())
        raise DataError(
            f"every interaction needs an id; {missing.sum()} of {len(column)} have none", row=row, column=name
        )
    return pd.Index(column)


def _whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """A column of times, (n,)."""
    column = np.asarray(values)
    if column.ndim != 1 or (len(column) and column.dtype.kind not in "iufM"):
        raise DataError(f"must be one column of numbers, found {column.dtype} of shape {column.shape}", column=name)
    if column.dtype.kind in "uf":
        wrong = ~(np.abs(column) < 2.0**63) | (column != np.trunc(column))
    else:
        wrong = pd.isna(column)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"must be whole numbers, found {column[row]}", row=row, column=name)
    return column.astype(np.int64)


def add_up_here(pairs: UserPairs) -> tuple[PairSums, int]:
    """Adds up all pairs of users in this thread."""
    return pairs.sums(0, pairs.n_chosen)


@final
@dataclass(frozen=True, slots=True)
class SwingSums:
    """The scores of all pairs of items before any are left out, and the log they come from: what a new day updates.

    Attributes:
        config: of Swing.
        user_ids, item_ids: the vocabularies, (U,) and (N,).
        log: latest time of each pair of user and item, without what the cap on items has left out for good.
        kept: which of these pairs the cap on users keeps, (n,).
        pairs: score of each pair of items in multiples of 2^-`unit_bits`.
        salt: orders interactions of the same time, whichever day they come in.
        additions: what the last build or update cost.
    """

    config: SwingConfig
    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    log: PairLog
    kept: NDArray[np.bool_]
    pairs: PairSums
    salt: str
    additions: int

    @classmethod
    def build(
        cls,
        interactions: Interactions,
        config: SwingConfig,
        *,
        rng: np.random.Generator,
        add_up: AddUp = add_up_here,
    ) -> Self:
        """Counts a log.

        Args: interactions: what counts as liked; repeats count once. rng: decides which interactions of the same time
            a cap keeps. add_up: where the work is done.
        """
        nothing = cls(
            config,
            interactions.user_ids,
            interactions.item_ids,
            PairLog.empty(),
            np.empty(0, np.bool_),
            PairSums.total([]),
            f"{rng.integers(2**63):016x}",
            0,
        )
        return nothing.update(interactions, add_up=add_up)

    def update(self, interactions: Interactions, *, add_up: AddUp = add_up_here) -> Self:
        """The same as building from all interactions so far, these included, at the cost of the users who changed.

        Args: interactions: the new ones; their vocabularies hold all earlier ids, in any order.
        Raises: DataError: for vocabularies that lack an earlier id.
        """
        moved = self._under(interactions.user_ids, interactions.item_ids)
        n_users, n_items = interactions.n_users, interactions.n_items
        log = moved.log.with_pairs(
            PairLog.of(interactions.user, interactions.item, interactions.timestamp, np.maximum), np.maximum
        )
        tie_break = self._tie_break(log, interactions)
        within = most_recent(log.user, log.values, tie_break, self.config.max_items_per_user)
        log, tie_break = log.take(within), tie_break[within]
        kept = most_recent(log.item, log.values, tie_break, self.config.max_users_per_item)

        before, after = (_without_times(state) for state in (moved.log.take(moved.kept), log.take(kept)))
        chosen = before.changed_users(after, n_users)
        taken, taking = add_up(UserPairs.of(before.user, before.item, n_items, self.config, chosen))
        added, adding = add_up(UserPairs.of(after.user, after.item, n_items, self.config, chosen))
        pairs = PairSums.total([moved.pairs, PairSums.total([added, -taken])])
        return replace(moved, log=log, kept=kept, pairs=pairs, additions=taking + adding)

    def neighbors(self) -> ItemNeighbors:
        """The nearest items of each item, under `item_ids`."""
        scores = self.pairs.sums.astype(np.float64) * 0.5 ** unit_bits(self.config)
        return nearest(self.pairs.keys, scores, self.item_ids, self.config.top_k)

    def _under(self, user_ids: NDArray[np.object_], item_ids: NDArray[np.object_]) -> Self:
        """The same under other vocabularies."""
        users = positions_in(self.user_ids, user_ids, "user")
        items = positions_in(self.item_ids, item_ids, "item")
        renamed = replace(self, user_ids=user_ids, item_ids=item_ids)
        if users is None and items is None:
            return renamed
        users = np.arange(len(self.user_ids)) if users is None else users
        items = np.arange(len(self.item_ids)) if items is None else items
        kept = PairLog(self.log.keys, self.kept.astype(np.int64)).moved(users, items).values.astype(np.bool_)
        return replace(renamed, log=self.log.moved(users, items), kept=kept, pairs=self.pairs.moved(items))

    def _tie_break(self, log: PairLog, interactions: Interactions) -> NDArray[np.uint64]:
        """A number for each pair that follows from its ids and the salt, (n,)."""
        users, items = (
            pd.util.hash_array(ids.astype(object), hash_key=self.salt, categorize=False)
            for ids in (interactions.user_ids, interactions.item_ids)
        )
        # The finaliser of MurmurHash3, so that neither part decides alone.
        mixed = users[log.user] ^ np.left_shift(items[log.item], np.uint64(1))
        for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
            mixed = (mixed ^ (mixed >> np.uint64(33))) * factor
        return mixed ^ (mixed >> np.uint64(33))


def _without_times(log: PairLog) -> PairLog:
    """The pairs alone: an item taken again has another time and adds the same."""
    return PairLog(log.keys, np.zeros(len(log), np.int64))
