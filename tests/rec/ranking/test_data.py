"""What rankers learn from: the answers that were given. That nothing of the future is in it: `test_pipeline`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rec.config import DataConfig, RankerConfig, TaskConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.data.events import open_events
from rec.data.logged import read_logged
from rec.preparation import Prepared, prepare
from rec.ranking.data import _among, task_labels
from rec.ranking.fits import RankingPeriods
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import by_category, log_slates

CONFIG = TrainConfig(ranker=RankerConfig(n_candidates=20, min_positives=1, negatives_per_query=5))
Periods = Callable[[Prepared, TrainConfig], RankingPeriods]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=40, n_videos=60, sessions_per_user=8)).dataset()


def test_queries_hold_positives_and_the_asked_number_of_others(dataset: Dataset, untrained_periods: Periods) -> None:
    data = untrained_periods(prepare(dataset, CONFIG), CONFIG).earlier()
    assert data.groups.sum() == len(data.matrix) == len(data.labels) > 0
    query = np.repeat(np.arange(len(data.groups)), data.groups)
    positives = np.bincount(query, weights=data.labels[:, 0])
    assert (positives >= 1).all()
    assert (data.groups - positives <= 5).all()


def test_answers_alone_hold_what_was_refused_too(dataset: Dataset, untrained_periods: Periods) -> None:
    ranker = CONFIG.ranker.model_copy(update={"learn_from": "answers"})
    config = CONFIG.model_copy(update={"ranker": ranker})
    data = untrained_periods(prepare(dataset, config), config).earlier()
    # Every row was answered; people watch or like some seven in ten, so both kinds are there, and neither rules.
    assert 0.5 < data.labels[:, 0].mean() < 0.95


def test_shards_are_whole_queries_and_lose_nothing(dataset: Dataset, untrained_periods: Periods) -> None:
    data = untrained_periods(prepare(dataset, CONFIG), CONFIG).earlier()
    shards = [data.shard(rank, 3) for rank in range(3)]
    assert sum(len(shard.matrix) for shard in shards) == len(data.matrix)
    first = np.repeat(np.arange(len(data.groups)), data.groups) % 3 == 0
    np.testing.assert_array_equal(shards[0].matrix, data.matrix[first])
    np.testing.assert_array_equal(shards[0].groups, data.groups[::3])


def test_no_item_is_among_nothing() -> None:
    # Row 1 lacks an item; the last item of row 0 must not be taken for it.
    items = np.array([[4, 2], [-1, 4]], np.int32)
    assert _among(items, np.array([0, 1]), np.array([4, 3])).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(("minimum", "wanted"), [(None, [1, 1, 0]), (4.0, [1, 0, 0])])
def test_a_task_without_a_threshold_is_what_counts_as_liked(minimum: float | None, wanted: list[int]) -> None:
    log = Interactions(
        user_ids=np.array(["u"], object), item_ids=np.array(["a", "b", "c"], object),
        user=np.zeros(3, np.int32), item=np.arange(3, dtype=np.int32), timestamp=np.arange(3),
        rating=np.array([5, 3, 1], np.float32),
    )  # fmt: skip
    task = TaskConfig(name="t", min_rating=minimum).resolved(CONFIG.data)
    assert task_labels(log, [task])[:, 0].tolist() == wanted
    bare = replace(log, rating=None)
    assert task_labels(bare, [task])[:, 0].tolist() == [1, 1, 1], "a log without ratings or actions is all liked"


def test_answers_have_the_position_at_which_the_item_was_shown(tmp_path: Path, untrained_periods: Periods) -> None:
    world = InstaTok(InstaTokConfig(n_users=30, n_videos=40, days=10))
    rng = np.random.default_rng(0)
    log = log_slates(
        world, by_category(np.arange(8) / 4, 30), n_sessions=300, k=5, epsilon=0.1, temperature=1.0, rng=rng
    )
    log.append_to(open_events(str(tmp_path)))
    dataset = read_logged(DataConfig(name="events", path=str(tmp_path)))
    rounds, interactions = dataset.rounds, dataset.interactions
    assert rounds is not None and interactions.position is not None
    places = [
        (str(user), str(item), int(at))
        for user, item, at in zip(rounds.user_id, rounds.item_id, rounds.position, strict=True)
    ]
    users, items = interactions.user_ids[interactions.user], interactions.item_ids[interactions.item]
    assert sorted(places) == sorted(zip(users, items, interactions.position.tolist(), strict=True))
    ranker = CONFIG.ranker.model_copy(update={"learn_from": "answers"})
    config = CONFIG.model_copy(update={"ranker": ranker})
    data = untrained_periods(prepare(dataset, config), config).earlier()
    assert data.positions is not None and len(data.positions) == len(data.matrix)
    assert set(data.positions.tolist()) == set(range(5))
    # Whoever leaves answers nothing below: of what stands lower, less is liked.
    assert data.labels[data.positions == 0, 0].mean() > data.labels[data.positions == 4, 0].mean() + 0.1
    shard = data.shard(1, 2)
    query = np.repeat(np.arange(len(data.groups)), data.groups)
    np.testing.assert_array_equal(shard.positions, data.positions[query % 2 == 1])


def test_candidates_that_nobody_answered_have_no_position(dataset: Dataset, untrained_periods: Periods) -> None:
    places = (np.arange(len(dataset.interactions)) % 7).astype(np.int16)
    shown = replace(dataset, interactions=replace(dataset.interactions, position=places))
    data = untrained_periods(prepare(shown, CONFIG), CONFIG).earlier()
    assert data.positions is not None
    assert (data.positions[data.labels[:, 0] > 0] >= 0).all() and (data.positions == -1).any()
    assert untrained_periods(prepare(dataset, CONFIG), CONFIG).earlier().positions is None
