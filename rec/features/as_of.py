"""What was known at a time: counts, ages and histories from the events strictly before it.

Training asks at the time of each row, answering asks at the time of the request; both through `as_of_features`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rec.data.dataset import Interactions

DAY_MS: Final = 86_400_000

EntitySide = Literal["user", "item"]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Events grouped by user, or by item; oldest first within each, file order among equal times.

    A key is entity * (D + 1) + rank of the event's time among the D distinct times, so one search in one sorted
    array answers "how many events of this entity are earlier". Ranks keep keys far from the limit of int64.

    Attributes: times: distinct event times, ascending, (D,). keys: ascending, (n,). timestamp, other: time and the
        other side's position of each event, (n,). indptr: run of each entity, (E + 1,).
    """

    times: NDArray[np.int64]
    keys: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    other: NDArray[np.int32]
    indptr: NDArray[np.int64]

    @classmethod
    def build(
        cls,
        times: NDArray[np.int64],
        ranks: NDArray[np.int64],
        entity: NDArray[np.int32],
        other: NDArray[np.int32],
        n_entities: int,
    ) -> "Timeline":
        """Sort events by entity and time; ranks are positions in times, (n,)."""
        keys = entity.astype(np.int64) * (len(times) + 1) + ranks
        order = np.argsort(keys, kind="stable")
        indptr = np.zeros(n_entities + 1, dtype=np.int64)
        np.cumsum(np.bincount(entity, minlength=n_entities), out=indptr[1:])
        return cls(times, keys[order], times[ranks[order]], other[order], indptr)

    def rows_before(self, positions: NDArray[np.integer], at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """End (exclusive) of the rows of each entity that are strictly before at_ms; 0 for position -1. (B,)."""
        rank = np.searchsorted(self.times, at_ms, side="left")
        return np.searchsorted(self.keys, positions.astype(np.int64) * (len(self.times) + 1) + rank, side="left")

    def past(self, positions: ArrayLike, at_ms: ArrayLike) -> "Past":
        """The events of each position strictly before at_ms (one time, or one a position); -1 is an entity without."""
        where, when = np.asarray(positions), np.asarray(at_ms, dtype=np.int64)
        return Past(self, where, when, self.indptr[np.maximum(where, 0)], self.rows_before(where, when))


@dataclass(frozen=True, slots=True)
class Past:
    """For each of B positions, the rows start:end of a timeline: its events strictly before at_ms."""

    timeline: Timeline
    positions: NDArray[np.integer]
    at_ms: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def count(self, window_ms: int | None = None) -> NDArray[np.int64]:
        """Events in [at_ms - window_ms, at_ms), or all before at_ms, (B,)."""
        if window_ms is None:
            return self.end - self.start
        return self.end - self.timeline.rows_before(self.positions, self.at_ms - window_ms)

    def first_ms(self) -> NDArray[np.float64]:
        """Time of the first event, NaN without one, (B,)."""
        return self._time_at(self.start)

    def last_ms(self) -> NDArray[np.float64]:
        """Time of the last event, NaN without one, (B,)."""
        return self._time_at(self.end - 1)

    def latest(self, length: int) -> NDArray[np.int32]:
        """The other side of the last `length` events, oldest first, padded on the left with -1, (B, length)."""
        rows = self.end[:, None] - length + np.arange(length)
        known = rows >= self.start[:, None]
        latest = np.full(rows.shape, -1, dtype=np.int32)
        latest[known] = self.timeline.other[rows[known]]
        return latest

    def distinct(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The other sides met, each once and ascending, as runs: indptr (B + 1,), positions (nnz,)."""
        lengths = self.end - self.start
        owner = np.repeat(np.arange(len(lengths)), lengths)
        offsets = np.cumsum(lengths) - lengths
        rows = np.arange(len(owner)) + (self.start - offsets)[owner]
        met = self.timeline.other[rows].astype(np.int64)
        span = int(met.max(initial=0)) + 1
        pairs = np.sort(owner * span + met)
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        indptr = np.searchsorted(pairs, np.arange(len(lengths) + 1) * span)
        return indptr, (pairs % span).astype(np.int32)

    def _time_at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        known = self.end > self.start
        times = np.full(len(known), np.nan)
        times[known] = self.timeline.timestamp[rows[known]]
        return times


class EventIndex:
    """Interactions sorted once, by user and by item, to be asked what was known strictly before any time.

    Every query is vectorised over positions (B,), with one time for all or one each; position -1 has no events.
    """

    def __init__(self, interactions: Interactions) -> None:
        times, ranks = np.unique(interactions.timestamp, return_inverse=True)
        user, item = interactions.user, interactions.item
        self.users = Timeline.build(times, ranks, user, item, interactions.n_users)
        self.items = Timeline.build(times, ranks, item, user, interactions.n_items)

    def past(self, side: EntitySide, positions: ArrayLike, at_ms: ArrayLike) -> Past:
        """The events of users or of items strictly before at_ms."""
        return (self.users if side == "user" else self.items).past(positions, at_ms)

    def item_count(self, items: ArrayLike, at_ms: ArrayLike, window_ms: int | None = None) -> NDArray[np.int64]:
        """Events of each item in [at_ms - window_ms, at_ms), or all before at_ms, (B,)."""
        return self.items.past(items, at_ms).count(window_ms)

    def user_count(self, users: ArrayLike, at_ms: ArrayLike, window_ms: int | None = None) -> NDArray[np.int64]:
        """Events of each user in [at_ms - window_ms, at_ms), or all before at_ms, (B,)."""
        return self.users.past(users, at_ms).count(window_ms)

    def history(self, users: ArrayLike, at_ms: ArrayLike, length: int) -> NDArray[np.int32]:
        """Each user's last `length` items, oldest first, padded on the left with -1, (B, length)."""
        return self.users.past(users, at_ms).latest(length)

    def seen(self, users: ArrayLike, at_ms: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Each user's items, once and ascending, as runs: indptr (B + 1,), items (nnz,)."""
        return self.users.past(users, at_ms).distinct()


@dataclass(frozen=True, slots=True)
class AsOf:
    """A feature that depends on the time it is asked at: whose it is, and how it follows from the events before.

    `join` makes one of two that were measured, as log(1 + x), over events of which none is in both.
    """

    side: EntitySide
    measure: Callable[[Past], NDArray]
    join: Callable[[NDArray, NDArray], NDArray]


def _count(days: int | None) -> Callable[[Past], NDArray]:
    return lambda past: past.count(None if days is None else days * DAY_MS)


def _age_days(past: Past) -> NDArray:
    return (past.at_ms - past.first_ms()) / DAY_MS


def _idle_days(past: Past) -> NDArray:
    return (past.at_ms - past.last_ms()) / DAY_MS


def _sum(first: NDArray, second: NDArray) -> NDArray:
    return np.log1p(np.expm1(first) + np.expm1(second))


AS_OF_FEATURES: Final[dict[str, AsOf]] = {
    "item_count_7d": AsOf("item", _count(7), _sum),
    "item_count_30d": AsOf("item", _count(30), _sum),
    "item_count_90d": AsOf("item", _count(90), _sum),
    "item_count_all": AsOf("item", _count(None), _sum),
    "item_age_days": AsOf("item", _age_days, np.fmax),
    "item_idle_days": AsOf("item", _idle_days, np.fmin),
    "user_count_7d": AsOf("user", _count(7), _sum),
    "user_count_all": AsOf("user", _count(None), _sum),
    "user_age_days": AsOf("user", _age_days, np.fmax),
    "user_idle_days": AsOf("user", _idle_days, np.fmin),
}


def as_of_features(
    index: EventIndex, side: EntitySide, positions: ArrayLike, at_ms: ArrayLike
) -> dict[str, NDArray[np.float32]]:
    """The as-of features of one side: log(1 + count) and log(1 + days), from events strictly before at_ms.

    Args: positions: users or items, -1 for one never seen, (B,). at_ms: one time, or one a position.
    Returns: by name in the order of AS_OF_FEATURES, (B,); age and idleness are NaN before the first event.
    """
    where, when = np.broadcast_arrays(np.asarray(positions), np.asarray(at_ms, dtype=np.int64))
    # Neighbouring queries search neighbouring rows: on a million of them, sorting first is three times faster.
    order = np.lexsort((when, where))
    past = index.past(side, where[order], when[order])
    features: dict[str, NDArray[np.float32]] = {}
    for name, feature in AS_OF_FEATURES.items():
        if feature.side == side:
            features[name] = np.empty(len(where), dtype=np.float32)
            features[name][order] = np.log1p(feature.measure(past))
    return features


def joined_as_of(first: dict[str, NDArray], second: dict[str, NDArray]) -> dict[str, NDArray]:
    """The as-of features of two sets of events of the same entities, of which no event is in both. (B,) by name."""
    return {name: AS_OF_FEATURES[name].join(values, second[name]) for name, values in first.items()}


def without_events(side: EntitySide) -> dict[str, NDArray[np.float32]]:
    """The as-of features of somebody of whom no event is known, (1,) by name."""
    nobody = np.zeros(0, dtype=object)
    no_one, never = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
    return as_of_features(EventIndex(Interactions(nobody, nobody, no_one, no_one, never)), side, [-1], 0)
