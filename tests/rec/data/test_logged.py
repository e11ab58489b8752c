"""A service's log as a data set."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rec.config import DataConfig
from rec.data.event_rows import validated
from rec.data.events import open_events
from rec.data.logged import NO_FEEDBACK, read_logged
from rec.data.tabular import write_parquet, write_side_tables
from rec.errors import ConfigError, DataError
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import by_category, log_slates


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    world = InstaTok(InstaTokConfig(n_users=20, n_videos=60, seed=0))
    rng = np.random.default_rng(0)
    policy = by_category(np.zeros(8), 20)
    log = log_slates(world, policy, n_sessions=60, k=4, epsilon=0.1, temperature=1.0, rng=rng)
    log.append_to(open_events(str(folder)))
    write_side_tables(world.dataset(n_sessions=2), folder / "events")
    return folder, log


def test_every_impression_is_an_interaction_and_a_round(home):
    folder, log = home
    dataset = read_logged(DataConfig(name="events", path=str(folder)))
    assert dataset.rounds is not None
    assert len(dataset.interactions) == len(dataset.rounds) == log.impressions.num_rows
    frame = dataset.interactions.to_frame()
    assert (frame["action"] == NO_FEEDBACK).sum() == log.impressions.num_rows - log.feedback.num_rows
    assert frame["timestamp"].is_monotonic_increasing
    # By default what was watched or liked earns 1.
    assert dataset.rounds.reward.sum() == frame["action"].isin(["watched", "liked"]).sum()
    assert {"category", "age"} <= {feature.name for feature in dataset.schema.features}
    assert (
        len(dataset.items) == 60 and dataset.sha256 == read_logged(DataConfig(name="events", path=str(folder))).sha256
    )


def test_a_log_in_an_object_store_is_the_same_data(with_earlier, remote_home):
    """What lies beside the tables comes from there, too, and errors name it there."""
    folder, before = with_earlier
    store = Home(remote_home)
    for file in (folder / "events").rglob("*"):
        if file.is_file():
            store.upload(file, str(file.relative_to(folder)))
    here, there = (read_logged(DataConfig(name="events", path=path)) for path in (str(folder), remote_home))
    assert there.sha256 == here.sha256 and there.schema == here.schema and there.schema.features
    assert there.interactions.position is not None
    assert (there.interactions.position == -1).sum() == len(before.interactions)
    for name in ("interactions.parquet", "items.parquet"):
        store.write(f"events/{name}", b"no table")
        with pytest.raises(DataError) as refused:
            read_logged(DataConfig(name="events", path=remote_home))
        assert refused.value.file == f"{remote_home}/events/{name}"


def test_rewards_are_those_configured(home):
    worth = {"watched": 1.0, "liked": 2.0, "skipped": -2.0, "other": -0.5}
    dataset = read_logged(DataConfig(name="events", path=str(home[0]), rewards=worth))
    actions = home[1].feedback["action"].to_pylist()
    assert dataset.rounds is not None
    assert dataset.rounds.reward.sum() == pytest.approx(sum(worth[action] for action in actions))


def test_settings_without_any_reward_are_refused(home):
    for wrong, field in (({"positive_actions": ("watchd",)}, "positive_actions"), ({"now_ms": 10**10}, "now_ms")):
        with pytest.raises(ConfigError) as refused:
            read_logged(DataConfig(name="events", path=str(home[0]), **wrong))
        assert refused.value.field == f"data.{field}"


def test_feedback_may_say_that_there_is_none(tmp_path, home):
    events, (first, *others) = open_events(str(tmp_path)), home[1].feedback.to_pylist()
    for table, rows in (
        ("requests", home[1].requests),
        ("impressions", home[1].impressions),
        ("feedback", [first | {"action": NO_FEEDBACK}, *others]),
    ):
        events.append(table, rows)
    dataset = read_logged(DataConfig(name="events", path=str(tmp_path)))
    n_silent = home[1].impressions.num_rows - home[1].feedback.num_rows
    assert (dataset.interactions.to_frame()["action"] == NO_FEEDBACK).sum() == n_silent + 1


def test_the_data_of_a_time_are_the_same_whenever_they_are_read(tmp_path):
    """Hours later more is old enough to count, and more has been logged; as of the recorded time nothing changes."""
    world = InstaTok(InstaTokConfig(n_users=20, n_videos=60, seed=0))
    policy, options = by_category(np.zeros(8), 20), {"n_sessions": 60, "k": 4, "epsilon": 0.1, "temperature": 1.0}
    events = open_events(str(tmp_path))
    log = log_slates(world, policy, rng=np.random.default_rng(0), **options)
    log.append_to(events)
    asked = log.requests["timestamp"].to_numpy()
    now_ms = int(np.quantile(asked, 0.7))
    config = DataConfig(name="events", path=str(tmp_path), now_ms=now_ms)
    before = read_logged(config)
    assert before.rounds is not None and before.rounds.timestamp.max() <= now_ms - config.attribution_s * 1000
    assert set(before.dropped) >= {"young", "future_impressions"}
    later = log_slates(world, policy, rng=np.random.default_rng(1), **options)
    again = [
        row | {"request_id": answered["request_id"], "received_at": now_ms + 1}
        for row, answered in zip(later.feedback.to_pylist(), log.feedback.to_pylist(), strict=False)
    ]
    events.append("feedback", again)
    asked_later = [row | {"candidates": ["new"], "candidate_scores": [0.5], "candidate_sources": None}
                   for row in later.requests.to_pylist() if row["timestamp"] > now_ms]  # fmt: skip
    events.append("requests", asked_later)
    after = read_logged(config)
    assert after.sha256 == before.sha256
    assert read_logged(config.model_copy(update={"now_ms": now_ms + 86_400_000})).sha256 != before.sha256


def test_the_data_of_recorded_versions_are_the_same_whatever_has_come_late(tmp_path):
    world = InstaTok(InstaTokConfig(n_users=20, n_videos=60, seed=0))
    policy, options = by_category(np.zeros(8), 20), {"n_sessions": 60, "k": 4, "epsilon": 0.1, "temperature": 1.0}
    events, config = open_events(str(tmp_path)), DataConfig(name="events", path=str(tmp_path))
    log_slates(world, policy, rng=np.random.default_rng(0), **options).append_to(events)
    versions, before = events.versions(), read_logged(config)
    log_slates(world, policy, rng=np.random.default_rng(1), **options).append_to(events)
    assert read_logged(config).sha256 != before.sha256
    again = read_logged(config, versions=versions)
    assert (again.sha256, again.tables) == (before.sha256, before.tables)


@pytest.fixture
def with_earlier(home, tmp_path):
    """The same log in a home that knows what people did in the two months before it."""
    folder = tmp_path / "home"
    shutil.copytree(home[0], folder)
    start_ms = InstaTokConfig().start_ms - 60 * 86_400_000
    before = InstaTok(InstaTokConfig(n_users=25, n_videos=60, seed=1, start_ms=start_ms)).dataset(n_sessions=40)
    write_parquet(before, folder / "events")
    return folder, before


def test_what_people_did_before_the_service_logged_counts(home, with_earlier):
    folder, before = with_earlier
    alone = read_logged(DataConfig(name="events", path=str(home[0])))
    both = read_logged(DataConfig(name="events", path=str(folder)))
    first, second = before.interactions.to_frame(), alone.interactions.to_frame()
    joined = both.interactions.to_frame()
    assert len(joined) == len(first) + len(second)
    pd.testing.assert_frame_equal(joined[: len(first)], first, check_dtype=False)
    pd.testing.assert_frame_equal(joined[len(first) :].reset_index(drop=True), second, check_dtype=False)
    assert both.interactions.position is not None and alone.interactions.position is not None
    assert (both.interactions.position[: len(first)] == -1).all()
    assert both.interactions.position[len(first) :].tolist() == alone.interactions.position.tolist()
    # Nobody knows why it was shown: what is learned off-policy is the log alone.
    assert both.rounds is not None and alone.rounds is not None
    assert both.rounds.reward.tolist() == alone.rounds.reward.tolist()
    assert both.interactions.n_users == 25 and both.sha256 != alone.sha256


def test_earlier_interactions_after_now_do_not_count(with_earlier):
    folder, before = with_earlier
    end_ms = int(before.interactions.timestamp.max())
    late = before.interactions
    moved = replace(late, timestamp=late.timestamp + 3650 * 86_400_000)
    write_parquet(replace(before, interactions=moved), folder / "events")
    now_ms = end_ms + 120 * 86_400_000
    dataset = read_logged(DataConfig(name="events", path=str(folder), now_ms=now_ms))
    assert dataset.rounds is not None and len(dataset.interactions) == len(dataset.rounds)


def test_earlier_ratings_are_refused_by_name(with_earlier):
    folder, before = with_earlier
    rated = replace(before.interactions, action=None, actions=(), rating=np.ones(len(before.interactions), np.float32))
    write_parquet(replace(before, interactions=rated), folder / "events")
    with pytest.raises(DataError, match="must be actions") as refused:
        read_logged(DataConfig(name="events", path=str(folder)))
    assert refused.value.file == str(folder / "events" / "interactions.parquet")


def test_ids_with_nul_are_refused(home):
    """Fixed-width text is cut off at NUL: two such ids could count as one."""
    log = home[1]
    named = log.feedback.to_pylist()[:2]
    with pytest.raises(DataError, match="NUL") as caught:
        validated("feedback", [named[0], named[1] | {"item_id": "a\0"}])
    assert (caught.value.file, caught.value.row, caught.value.column) == ("feedback", 1, "item_id")
    asked = log.requests.to_pylist()[:3]
    for column in ("history", "candidates"):
        wrong = [*asked[:2], asked[2] | {column: [*asked[2]["candidates"][1:], "a\0b"]}]
        with pytest.raises(DataError, match="NUL") as caught:
            validated("requests", wrong)
        assert (caught.value.file, caught.value.row, caught.value.column) == ("requests", 2, column)


def test_an_empty_log_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="holds no impression") as caught:
        read_logged(DataConfig(name="events", path=str(tmp_path)))
    assert "impressions" in caught.value.file
