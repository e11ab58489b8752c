"""Interactions divided into what a model may learn from and what it is judged on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rec.config import SplitConfig
from rec.data.dataset import Interactions
from rec.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Training and test rows, under the vocabularies of the whole.

    Attributes:
        train: what a model may learn from.
        test: what it is judged on; each user and item of it occurs in train.
        cut_ms: the time that divides them, where there is one: train is before it, test is not.
        dropped: rows in neither, by reason.
    """

    train: Interactions
    test: Interactions
    cut_ms: int | None
    dropped: dict[str, int] = field(default_factory=dict)


def split(interactions: Interactions, config: SplitConfig) -> Split:
    """Divide interactions as the config says.

    Raises: DataError: when there is nothing left to train on or to judge by.
    """
    if not len(interactions):
        raise DataError("there are no interactions to split; check min_rating and positive_actions")
    return SPLITS[config.kind](interactions, config.train_fraction)


def global_temporal(interactions: Interactions, train_fraction: float) -> Split:
    """Everything from one time on is test.

    T is the value at index int(train_fraction n) of the sorted times; train is t < T, test is t >= T, so rows at T
    itself stay together. Test rows of a user, or else of an item, that train does not hold are dropped.

    Source: the protocol of RePlay's published comparison on MovieLens-1M (Vasilev et al. 2024,
    doi:10.1145/3640457.3691701).
    """
    times = np.sort(interactions.timestamp)
    cut_ms = int(times[int(train_fraction * len(times))])
    return _without_cold(interactions, interactions.timestamp >= cut_ms, cut_ms)


def per_user_temporal(interactions: Interactions, train_fraction: float) -> Split:
    """The latest rows of each user are test; the earliest ceil(train_fraction n) of their n rows are train.

    Ties in time keep the order of the file. A user of very few rows has no test rows. No one time divides train from
    test, so models see some users' future while judged on others' past: use it to compare with published numbers.
    """
    rank, count = _place_in_user(interactions)
    # 1e-9 keeps a product such as .7 * 10, which may round to just above 7, from taking one row more.
    return _without_cold(interactions, rank >= np.ceil(train_fraction * count - 1e-9), None)


def leave_last_out(interactions: Interactions, train_fraction: float) -> Split:
    """The last row of each user is test; of rows at the same time, the last in the file. One row alone is train."""
    del train_fraction  # the share follows from the number of users
    rank, count = _place_in_user(interactions)
    return _without_cold(interactions, (rank == count - 1) & (count > 1), None)


def undivided(interactions: Interactions, train_fraction: float) -> Split:
    """Everything is train: for a model that is to serve all that is known, and is judged on what comes later."""
    del train_fraction  # there is no test
    end_ms = int(interactions.timestamp.max()) + 1
    return Split(train=interactions, test=interactions.take(np.zeros(len(interactions), bool)), cut_ms=end_ms)


SPLITS: Final[Mapping[str, Callable[[Interactions, float], Split]]] = {
    "global_temporal": global_temporal,
    "per_user_temporal": per_user_temporal,
    "leave_last_out": leave_last_out,
    "none": undivided,
}


def _place_in_user(interactions: Interactions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row's place among its user's rows by time, from 0, and how many these are; (n,) both."""
    order = np.lexsort((interactions.timestamp, interactions.user))  # stable: ties keep file order
    counts = np.bincount(interactions.user, minlength=interactions.n_users)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - starts[interactions.user[order]]
    return place, counts[interactions.user]


def _without_cold(interactions: Interactions, is_test: NDArray[np.bool_], cut_ms: int | None) -> Split:
    """Split by a mask, dropping test rows of users, or else items, that do not occur in train."""
    train = interactions.take(~is_test)
    warm_user = np.zeros(interactions.n_users, dtype=bool)
    warm_item = np.zeros(interactions.n_items, dtype=bool)
    warm_user[train.user] = True
    warm_item[train.item] = True
    cold_user = is_test & ~warm_user[interactions.user]
    cold_item = is_test & ~cold_user & ~warm_item[interactions.item]
    test = interactions.take(is_test & ~cold_user & ~cold_item)
    dropped = {"test_cold_user": int(cold_user.sum()), "test_cold_item": int(cold_item.sum())}
    if not len(train) or not len(test):
        empty = "train" if not len(train) else "test"
        raise DataError(
            f"the split leaves no {empty} rows: {len(interactions)} rows, {int(is_test.sum())} of them for test, of "
            f"which {dropped['test_cold_user']} have a user and {dropped['test_cold_item']} an item that train lacks; "
            "use more data or another split",
            field="split",
        )
    return Split(train=train, test=test, cut_ms=cut_ms, dropped={reason: n for reason, n in dropped.items() if n})
