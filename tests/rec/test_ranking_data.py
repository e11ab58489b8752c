"""What rankers learn from: the answers that were given. That nothing of the future is in it: `test_pipeline`."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rec.config import RankerConfig, TaskConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.preparation import Prepared, prepare
from rec.ranker_fits import RankingPeriods
from rec.ranking_data import _among, task_labels
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

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
