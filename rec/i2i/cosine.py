"""Item-item cosine: items are near when the same users think alike of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from scipy import sparse

from rec.config import CosineConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError, DataError
from rec.i2i.neighbors import ItemNeighbors, nearest
from rec.i2i.pair_log import PairLog, positions_in
from rec.i2i.pair_sums import ITEM_BITS, PairSums

INSTATOK_SCORES: Final[Mapping[str, float]] = {"watched": 1.0, "skipped": -2.0, "liked": 2.0, "other": -0.5}
"""What the actions of a short-video session say about a video."""

_THOUSANDTHS: Final = 1000


def cosine(interactions: Interactions, *, top_k: int) -> ItemNeighbors:
    """Items liked by the same users: n_ij / sqrt(n_i n_j), n_ij the users who liked both.

    Source: Sarwar et al. (2001), doi:10.1145/371920.372071, on 0 and 1.

    Args: interactions: what counts as liked; repeats count once. top_k: neighbours kept of each item.
    """
    return CosineSums.build(interactions, CosineConfig(top_k=top_k)).neighbors()


def action_scores(interactions: Interactions, scores: Mapping[str, float]) -> NDArray[np.float64]:
    """What the action of each interaction is worth, (n,).

    Raises: DataError: where the log has no actions. ConfigError: where one of its actions has no score.
    """
    if interactions.action is None:
        raise DataError("scores are of actions, and this log has none; leave the scores out")
    missing = sorted(set(interactions.actions) - set(scores))
    if missing:
        raise ConfigError(f"every action of the log needs a score; {', '.join(missing)} has none", field="scores")
    return np.array([scores[action] for action in interactions.actions], np.float64)[interactions.action]


@final
@dataclass(frozen=True, slots=True)
class CosineSums:
    """Products of what users think of two items, summed over users: what a new day updates.

    Scores are kept in thousandths, as integers, so that an update equals a new build exactly.

    Attributes:
        config: of the cosine.
        user_ids, item_ids: the vocabularies, (U,) and (N,).
        log: what each user thinks of each item, x_ui: 1, or the sum of the scores of the interactions in thousandths.
        pairs: sum over users of x_ui x_uj.
        norms: sum over users of x_ui^2, int64, (N,).
        changed_users: how many users the last build or update went over.
    """

    config: CosineConfig
    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    log: PairLog
    pairs: PairSums
    norms: NDArray[np.int64]
    changed_users: int

    @classmethod
    def build(cls, interactions: Interactions, config: CosineConfig) -> Self:
        """Counts a log.

        Raises: DataError, ConfigError: for actions that have no score, and scores finer than thousandths.
        """
        norms = np.zeros(interactions.n_items, np.int64)
        ids = (interactions.user_ids, interactions.item_ids)
        return cls(config, *ids, PairLog.empty(), PairSums.total([]), norms, 0).update(interactions)

    def update(self, interactions: Interactions) -> Self:
        """The same as building from all interactions so far, these included, at the cost of the users who changed.

        Args: interactions: the new ones; their vocabularies hold all earlier ids, in any order.
        Raises: DataError: for vocabularies that lack an earlier id, and as `build` does.
        """
        moved = self._under(interactions.user_ids, interactions.item_ids)
        values, combine = np.ones(len(interactions), np.int64), np.maximum
        if self.config.scores is not None:
            values, combine = _thousandths(action_scores(interactions, self.config.scores)), np.add
        log = moved.log.with_pairs(PairLog.of(interactions.user, interactions.item, values, combine), combine)
        changed = moved.log.changed_users(log, interactions.n_users)
        before, after = (rows.take(changed[rows.user]) for rows in (moved.log, log))
        _refuse_overflow(moved.norms + _squares(after, interactions.n_items) - _squares(before, interactions.n_items))
        norms = moved.norms + _norms(after, interactions.n_items) - _norms(before, interactions.n_items)
        change = PairSums.total([_products(after, interactions.n_items), -_products(before, interactions.n_items)])
        pairs = PairSums.total([moved.pairs, change])
        return replace(moved, log=log, pairs=pairs, norms=norms, changed_users=int(changed.sum()))

    def neighbors(self) -> ItemNeighbors:
        """The nearest items of each item by x_i . x_j / (|x_i| |x_j|), those of a cosine above 0, under `item_ids`."""
        i, j = self.pairs.items()
        norms = self.norms.astype(np.float64)
        scores = self.pairs.sums / np.sqrt(norms[i] * norms[j])
        return nearest(self.pairs.keys, scores, self.item_ids, self.config.top_k)

    def _under(self, user_ids: NDArray[np.object_], item_ids: NDArray[np.object_]) -> Self:
        """The same under other vocabularies."""
        users = positions_in(self.user_ids, user_ids, "user")
        items = positions_in(self.item_ids, item_ids, "item")
        norms = np.zeros(len(item_ids), np.int64)
        norms[np.arange(len(self.item_ids)) if items is None else items] = self.norms
        renamed = replace(self, user_ids=user_ids, item_ids=item_ids, norms=norms)
        if users is None and items is None:
            return renamed
        users = np.arange(len(self.user_ids)) if users is None else users
        items = np.arange(len(self.item_ids)) if items is None else items
        return replace(renamed, log=self.log.moved(users, items), pairs=self.pairs.moved(items))


def _thousandths(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scores as whole numbers of thousandths, (n,)."""
    scaled = np.rint(scores * _THOUSANDTHS)
    finer = np.flatnonzero(np.abs(scaled - scores * _THOUSANDTHS) > 1e-6)
    if len(finer):
        raise ConfigError(f"scores are whole thousandths, so that sums are exact; found {scores[finer[0]]}")
    _refuse_overflow(scaled**2)
    return scaled.astype(np.int64)


def _norms(log: PairLog, n_items: int) -> NDArray[np.int64]:
    """Sum of squares of each item, (N,), which bounds every sum of products."""
    _refuse_overflow(_squares(log, n_items))
    norms = np.zeros(n_items, np.int64)
    np.add.at(norms, log.item, log.values**2)
    return norms


def _squares(log: PairLog, n_items: int) -> NDArray[np.float64]:
    """`_norms`, rounded, where they may be too large for whole numbers."""
    return np.bincount(log.item, log.values.astype(np.float64) ** 2, minlength=n_items).astype(np.float64)


def _refuse_overflow(norms: NDArray[np.float64]) -> None:
    if norms.max(initial=0.0) > 2**62:
        raise DataError("scores add up to more than 64 bits hold; scale them down")


def _products(log: PairLog, n_items: int) -> PairSums:
    """Sum over users of the product of their two values, of every pair of items."""
    users, user = np.unique(log.user, return_inverse=True)
    indptr = np.searchsorted(user, np.arange(len(users) + 1))
    by_user = sparse.csr_array((log.values, log.item.astype(np.uint32), indptr), shape=(len(users), n_items))
    by_item = by_user.tocsc()
    return PairSums(
        *_add_products(
            indptr.astype(np.int64),
            log.item.astype(np.uint32),
            log.values,
            by_item.indptr.astype(np.int64),
            by_item.indices.astype(np.uint32),
        )
    )


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _add_products(user_indptr, user_items, values, item_indptr, item_users):
    """`_products` as keys and sums, one row of the items by items at a time.

    Source: Gustavson (1978), doi:10.1145/355791.355796.
    """
    n_items = len(item_indptr) - 1
    # Items come in ascending order, so what of a user's list lies behind the current one is where this has got to.
    behind = user_indptr[:-1].copy()
    row = np.zeros(n_items, np.int64)
    in_row = np.zeros(n_items, np.bool_)
    others = np.empty(n_items, np.uint32)
    keys = np.empty(1024, np.int64)
    sums = np.empty(1024, np.int64)
    size = 0
    for i in range(n_items):
        n_others = 0
        for user in item_users[item_indptr[i] : item_indptr[i + 1]]:
            value = values[behind[user]]
            behind[user] += 1
            for place in range(behind[user], user_indptr[user + 1]):
                j = user_items[place]
                if not in_row[j]:
                    in_row[j] = True
                    others[n_others] = j
                    n_others += 1
                row[j] += value * values[place]
        found = np.sort(others[:n_others])
        if size + n_others > len(keys):
            more = np.empty(max(size, n_others) + n_others, np.int64)
            keys = np.concatenate((keys[:size], more))
            sums = np.concatenate((sums[:size], more))
        for j in found:
            if row[j] != 0:
                keys[size] = (np.int64(i) << ITEM_BITS) | np.int64(j)
                sums[size] = row[j]
                size += 1
            row[j] = 0
            in_row[j] = False
    return keys[:size].copy(), sums[:size].copy()
