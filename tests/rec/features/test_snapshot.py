import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from rec.errors import BundleError
from rec.features.as_of import DAY_MS, EventIndex
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot

AT_MS = 30 * DAY_MS


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    """Equal in every number, bit by bit."""
    for name in ("users", "items", "user_as_of", "item_as_of"):
        for feature, values in getattr(expected, name).items():
            other = getattr(found, name)[feature]
            assert other.dtype == values.dtype
            assert_array_equal(other, values)
    for name in ("at_ms", "history", "seen_indptr", "seen", "item_counts", "user_ids", "item_ids"):
        assert_array_equal(getattr(found, name), getattr(expected, name))


def test_another_catalogue_says_what_is_withdrawn_and_since_when_items_are_there(snapshot):
    """Of other ids, in another order; one of its items came later than this snapshot is, one is not in this one."""
    table = snapshot.item_table.iloc[[2, 1, 0]].assign(item_id=["i2", "i1", "new"])
    added_ms, withdrawn = np.array([5, AT_MS + 5, 5]), np.array([True, False, True])
    other = replace(snapshot, item_table=table.reset_index(drop=True), added_ms=added_ms, withdrawn=withdrawn)
    found = snapshot.in_catalogue_of(other)
    assert_array_equal(np.flatnonzero(found.withdrawn), snapshot.item_positions(["i2"]))
    expected = np.full(len(snapshot.item_ids), AT_MS)
    expected[snapshot.item_positions(["i2"])] = 5
    assert_array_equal(found.added_ms, expected)


def test_it_is_the_same_with_another_future(world, snapshot):
    log, rng = world.interactions, np.random.default_rng(1)
    later = log.timestamp >= AT_MS
    shuffled = replace(
        log,
        user=np.where(later, rng.permutation(log.user), log.user),
        item=np.where(later, rng.permutation(log.item), log.item),
        timestamp=np.where(later, AT_MS + rng.integers(0, DAY_MS, len(log)), log.timestamp),
    )
    other = replace(world, interactions=shuffled)
    encoders = Encoders.fit(other, shuffled.before(AT_MS))
    assert_same(Snapshot.build(other, encoders, shuffled, AT_MS, 12), snapshot)
    assert_same(Snapshot.build(other, encoders, shuffled.before(AT_MS), AT_MS, 12), snapshot)


def test_as_of_features_are_those_training_sees_at_that_time(world, snapshot):
    index = EventIndex(world.interactions)
    positions = np.array([3, 0, 3])
    rows = snapshot.encoders.as_of(index, "item", positions, np.full(3, AT_MS))
    for name, values in rows.items():
        assert_array_equal(snapshot.items[name][positions], values)


def test_parquet_gives_back_every_number(snapshot, tmp_path):
    for name, frame in zip(("users", "items"), snapshot.to_frames(), strict=True):
        frame.to_parquet(tmp_path / f"{name}.parquet")
    encoders = Encoders.from_json(json.loads(json.dumps(snapshot.encoders.to_json())))
    users, items = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("users", "items"))
    assert_same(Snapshot.from_frames(users, items, encoders), snapshot)
    assert users["history"].iloc[0][-1] == snapshot.item_ids[snapshot.history[0, -1]]


def test_tables_that_do_not_fit_are_refused(snapshot):
    users, items = snapshot.to_frames()
    with pytest.raises(BundleError, match="country"):
        Snapshot.from_frames(users.drop(columns="country"), items, snapshot.encoders)
    with pytest.raises(BundleError, match="train again"):
        Snapshot.from_frames(users, items.iloc[:3], snapshot.encoders)


def test_states_are_rows_of_the_snapshot(snapshot):
    users = np.array([4, 0, 4])
    states = snapshot.user_states(users)
    assert_array_equal(states.history, snapshot.history[users])
    assert_array_equal(states.at_ms, AT_MS)
    for name, values in snapshot.users.items():
        assert_array_equal(states.features[name], values[users])
    for row, user in enumerate(users):
        run = states.excluded[states.excluded_indptr[row] : states.excluded_indptr[row + 1]]
        assert_array_equal(run, snapshot.seen[snapshot.seen_indptr[user] : snapshot.seen_indptr[user + 1]])
        assert set(states.history[row][states.history[row] >= 0]) <= set(run)


def test_a_user_never_seen_has_no_history_and_features_of_no_events(snapshot):
    silent = len(snapshot.user_ids) - 1  # known by name and features, but without events
    states = snapshot.user_states(np.array([-1, silent]))
    assert_array_equal(states.history, -1)
    assert len(states.excluded) == 0
    assert states.features["user_id"][0] == 0 and states.features["country"][0] == 0
    for name in snapshot.user_as_of:
        assert states.features[name][0] == states.features[name][1]


def test_excluded_items_join_those_seen(snapshot):
    wanted = [[39, 2, 39], [], [7, -1]]
    states = snapshot.user_states(np.array([1, 1, -1]), wanted)
    seen = snapshot.seen[snapshot.seen_indptr[1] : snapshot.seen_indptr[2]]
    runs = np.split(states.excluded, states.excluded_indptr[1:-1])
    for run, expected in zip(runs, (np.union1d(seen, [2, 39]), seen, [7]), strict=True):
        assert_array_equal(run, expected)


def test_history_slots_are_item_id_slots_and_0_for_padding_and_for_ids_that_training_did_not_hold(snapshot):
    new = len(snapshot.item_ids) - 1
    slots = snapshot.history_slots(np.array([[-1, 3], [5, new]]))
    assert_array_equal(slots, [[0, snapshot.item_slots[3]], [snapshot.item_slots[5], 0]])
    assert snapshot.item_slots[new] >= snapshot.encoders.first_unknown("item_id")
    assert_array_equal(snapshot.item_slots, snapshot.encoders.slots("item_id", snapshot.item_ids))


def test_ids_become_positions_and_unknown_ones_minus_1(snapshot):
    assert_array_equal(snapshot.item_positions(["i3", "nobody"]), [3, -1])
    assert_array_equal(snapshot.user_positions(["nobody", "u0"]), [-1, 0])
