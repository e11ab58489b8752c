"""The law of recent items: a snapshot with them laid over is the snapshot of a log that ends with them."""

from dataclasses import replace

import numpy as np
import pytest

from rec.data.dataset import Dataset, Interactions
from rec.features.recent import recent_states
from rec.features.snapshot import Snapshot

HISTORY = 12
# Of a user with a long history, one with a longer recent list than histories are, and one with no events at all.
RECENT = {3: ["i5", "i1"], 4: [f"i{number}" for number in range(0, 36, 2)], 14: ["i7"], 5: []}


def with_events(world: Dataset, snapshot: Snapshot, recent: dict[int, list[str]]) -> Snapshot:
    """The snapshot after these items were taken, a millisecond before its time, in this order."""
    past = world.interactions.before(snapshot.at_ms)
    user = np.repeat(list(recent), [len(items) for items in recent.values()]).astype(np.int32)
    item = snapshot.item_positions([item for items in recent.values() for item in items])
    events = Interactions(
        user_ids=past.user_ids,
        item_ids=past.item_ids,
        user=np.concatenate([past.user, user]),
        item=np.concatenate([past.item, item]),
        timestamp=np.concatenate([past.timestamp, np.full(len(user), snapshot.at_ms - 1)]),
    )
    return Snapshot.build(world, snapshot.encoders, events, snapshot.at_ms, HISTORY)


def test_states_are_those_of_a_snapshot_whose_last_events_were_these(world: Dataset, snapshot: Snapshot):
    users = np.array(list(RECENT), np.int32)
    fresh = {
        user: [item for item in items if snapshot.item_positions([item])[0] not in seen_by(snapshot, user)]
        for user, items in RECENT.items()
    }
    assert sum(map(len, fresh.values())) > 8 and len(fresh[4]) < len(RECENT[4]), "some were seen, some were not"
    excluded = [[0, 2], [], [], []]
    states = recent_states(snapshot, users, list(RECENT.values()), excluded)
    expected = with_events(world, snapshot, fresh).user_states(users, excluded)
    np.testing.assert_array_equal(states.history, expected.history)
    np.testing.assert_array_equal(states.excluded_indptr, expected.excluded_indptr)
    np.testing.assert_array_equal(states.excluded, expected.excluded)
    assert states.features.keys() == expected.features.keys()
    for name, values in expected.features.items():
        np.testing.assert_allclose(states.features[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_somebody_never_seen_has_a_history_and_nothing_else(world: Dataset, snapshot: Snapshot):
    unknown = np.array([-1, -1], np.int32)
    states = recent_states(snapshot, unknown, [["i3", "no such item", "i2"], []], [[], []])
    none = snapshot.user_states(unknown)
    assert states.history[0].tolist() == [-1] * (HISTORY - 2) + snapshot.item_positions(["i3", "i2"]).tolist()
    assert states.excluded.tolist() == sorted(snapshot.item_positions(["i3", "i2"]).tolist())
    assert states.user.tolist() == [-1, -1]
    for name, values in none.features.items():
        np.testing.assert_array_equal(states.features[name][1], values[1])
        if not name.startswith(("user_count", "user_idle", "user_age")):
            np.testing.assert_array_equal(states.features[name][0], values[0])
    assert states.features["user_count_all"][0] > none.features["user_count_all"][0]


@pytest.mark.parametrize("recent", [[], ["no such item"]])
def test_nothing_recent_changes_nothing(snapshot: Snapshot, recent: list[str]):
    users = np.array([3], np.int32)
    before, after = snapshot.user_states(users, [[1]]), recent_states(snapshot, users, [recent], [[1]])
    assert after.features.keys() == before.features.keys()
    np.testing.assert_array_equal(after.history, before.history)
    np.testing.assert_array_equal(after.excluded, before.excluded)
    for name, values in before.features.items():
        np.testing.assert_array_equal(after.features[name], values)


def test_the_states_of_the_snapshot_stay_as_they_are(snapshot: Snapshot):
    before = replace(snapshot.user_states([3]))
    recent_states(snapshot, np.array([3], np.int32), [["i5", "i1"]], [[]])
    np.testing.assert_array_equal(snapshot.user_states([3]).history, before.history)


def seen_by(snapshot: Snapshot, user: int) -> set[int]:
    return set(snapshot.seen[snapshot.seen_indptr[user] : snapshot.seen_indptr[user + 1]].tolist())
