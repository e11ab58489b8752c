import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rec.data.dataset import Interactions
from rec.features.as_of import AS_OF_FEATURES, DAY_MS, EventIndex, as_of_features

N_USERS, N_ITEMS, SPAN_MS = 12, 9, 200 * DAY_MS


def random_interactions(rng: np.random.Generator, n: int = 400) -> Interactions:
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=rng.integers(N_USERS - 1, size=n).astype(np.int32),  # the last user and item have no events
        item=rng.integers(N_ITEMS - 1, size=n).astype(np.int32),
        timestamp=rng.integers(0, 40, size=n) * (SPAN_MS // 40),  # many equal times
    )


def rows_before(log: Interactions, side: str, position: int, at_ms: int) -> np.ndarray:
    entity = log.user if side == "user" else log.item
    rows = np.flatnonzero((entity == position) & (log.timestamp < at_ms))
    return rows[np.argsort(log.timestamp[rows], kind="stable")]


@pytest.fixture
def log() -> Interactions:
    return random_interactions(np.random.default_rng(0))


@pytest.fixture
def queries(log: Interactions) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    at_ms = np.concatenate([rng.choice(log.timestamp, 100), rng.integers(-10, SPAN_MS + 10, 100)])
    return rng.integers(-1, 9, size=200).astype(np.int32), at_ms


def test_queries_equal_a_plain_loop_over_the_events(log, queries):
    index, (positions, at_ms) = EventIndex(log), queries
    counts = index.item_count(positions, at_ms)
    weekly = index.user_count(positions, at_ms, window_ms=7 * DAY_MS)
    first = index.past("item", positions, at_ms).first_ms()
    last = index.past("user", positions, at_ms).last_ms()
    history = index.history(positions, at_ms, 5)
    indptr, seen = index.seen(positions, at_ms)
    for b, (position, at) in enumerate(zip(positions, at_ms, strict=True)):
        of_item, of_user = rows_before(log, "item", position, at), rows_before(log, "user", position, at)
        assert counts[b] == len(of_item)
        assert weekly[b] == (log.timestamp[of_user] >= at - 7 * DAY_MS).sum()
        assert_array_equal(first[b], log.timestamp[of_item[0]] if len(of_item) else np.nan)
        assert_array_equal(last[b], log.timestamp[of_user[-1]] if len(of_user) else np.nan)
        latest = log.item[of_user][-5:]
        assert_array_equal(history[b], np.r_[np.full(5 - len(latest), -1), latest])
        assert_array_equal(seen[indptr[b] : indptr[b + 1]], np.unique(log.item[of_user]))


def test_a_window_holds_its_start_and_not_its_end():
    # one event on day 10: seen by [10, 17), that is when asked after day 10 and up to day 17
    log = random_interactions(np.random.default_rng(0), 1)
    log.timestamp[:] = 10 * DAY_MS
    at_ms = np.array([10, 10.5, 17, 17.5]) * DAY_MS
    counts = EventIndex(log).item_count(np.repeat(log.item, 4), at_ms.astype(np.int64), 7 * DAY_MS)
    assert_array_equal(counts, [0, 1, 1, 0])


@pytest.mark.parametrize("side", ["user", "item"])
def test_nothing_at_or_after_the_time_is_visible(log, side):
    at_ms = 20 * (SPAN_MS // 40)
    rng = np.random.default_rng(2)
    later = log.timestamp >= at_ms
    altered = random_interactions(rng, len(log))
    for name in ("user", "item", "timestamp"):
        past, future = getattr(log, name), getattr(altered, name)
        getattr(altered, name)[:] = np.where(later, future, past)
    altered.timestamp[later] = at_ms + rng.integers(0, SPAN_MS, later.sum())
    everyone = np.arange(-1, 9)
    expected, found = EventIndex(log), EventIndex(altered)
    for name, values in as_of_features(expected, side, everyone, at_ms).items():
        assert_array_equal(as_of_features(found, side, everyone, at_ms)[name], values)
    assert_array_equal(found.history(everyone, at_ms, 8), expected.history(everyone, at_ms, 8))
    assert_array_equal(found.seen(everyone, at_ms)[1], expected.seen(everyone, at_ms)[1])


def test_one_time_for_all_equals_one_time_each(log):
    index, at_ms = EventIndex(log), SPAN_MS // 2
    items = np.arange(N_ITEMS)
    each = as_of_features(index, "item", items, np.full(N_ITEMS, at_ms))
    for name, values in as_of_features(index, "item", items, at_ms).items():
        assert_array_equal(values, each[name])


def test_without_events_counts_are_zero_and_ages_unknown(log):
    empty = EventIndex(log.take(np.zeros(len(log), dtype=bool)))
    for index, position in ((EventIndex(log), -1), (EventIndex(log), N_ITEMS - 1), (empty, 3)):
        features = as_of_features(index, "item", np.array([position]), SPAN_MS)
        for name, value in features.items():
            assert_array_equal(value, [0.0] if "count" in name else [np.nan])
        assert_array_equal(index.history(np.array([-1]), SPAN_MS, 3), [[-1, -1, -1]])
        assert_array_equal(index.seen(np.array([-1, -1]), SPAN_MS)[0], [0, 0, 0])


def test_features_of_a_side_carry_its_name():
    assert all(name.startswith(feature.side) for name, feature in AS_OF_FEATURES.items())
