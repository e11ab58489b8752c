"""What rankers learn from: nothing of the future, and the answers that were given."""

from dataclasses import replace

import numpy as np
import pytest

from rec.config import RankerConfig, TaskConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.as_of import EventIndex
from rec.features.ranking import RankingFeatures
from rec.i2i import cosine
from rec.models.two_tower import TwoTower
from rec.preparation import Prepared, prepare, snapshot_at
from rec.ranking_data import RankingData, _among, build_ranking_data, draw_moments, task_labels
from rec.retrieval.two_tower import TwoTowerSource
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

CONFIG = TrainConfig(ranker=RankerConfig(n_candidates=20, min_positives=1, negatives_per_query=5))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=40, n_videos=60, sessions_per_user=8)).dataset()


def _queries(ready: Prepared, config: TrainConfig) -> RankingData:
    """The queries of the first period, answered before the second begins, from an untrained retriever."""
    import torch

    start_ms, until_ms = ready.period_starts[0], ready.period_starts[1]
    snapshot = snapshot_at(ready, config, start_ms)
    torch.manual_seed(0)
    source = TwoTowerSource.build(TwoTower(config.retriever, ready.encoders.specs), snapshot)
    train = ready.split.train
    index = EventIndex(train.before(until_ms))
    rng = np.random.default_rng(0)
    moments = draw_moments(index, train, start_ms=start_ms, end_ms=until_ms, n=60, session_share=0.5, rng=rng)
    features = RankingFeatures(snapshot, cosine(train.before(start_ms), top_k=10))
    tasks = [task.resolved(config.data) for task in config.ranker.tasks]
    later = ready.log.between(start_ms, until_ms)
    return build_ranking_data(snapshot, index, features, source, moments, later, config.ranker, tasks, rng)


def _with_other_future(dataset: Dataset, cut_ms: int) -> Dataset:
    """The same past; from cut_ms on other items were shown, and others liked."""
    log = dataset.interactions
    future = np.flatnonzero(log.timestamp >= cut_ms)
    rng = np.random.default_rng(9)
    item, action = log.item.copy(), log.action.copy()
    item[future] = rng.permutation(item[future])
    action[future] = rng.permutation(action[future])
    return replace(dataset, interactions=replace(log, item=item, action=action))


def test_shuffling_the_future_changes_no_query(dataset: Dataset) -> None:
    ready = prepare(dataset, CONFIG)
    until_ms = ready.period_starts[1]
    other = _with_other_future(dataset, until_ms)
    # The encoders and the period bounds are those of the first: only what lies after the period differs.
    shuffled = replace(ready, log=other.interactions.before(ready.period_starts[-1]),
                       split=replace(ready.split, train=_liked(other, ready)))  # fmt: skip
    before, after = _queries(ready, CONFIG), _queries(shuffled, CONFIG)
    np.testing.assert_array_equal(before.matrix, after.matrix)
    np.testing.assert_array_equal(before.labels, after.labels)
    np.testing.assert_array_equal(before.groups, after.groups)
    changed = _liked(other, ready).item[_liked(other, ready).timestamp >= until_ms]
    assert len(changed) and not np.array_equal(
        np.sort(changed), np.sort(ready.split.train.item[ready.split.train.timestamp >= until_ms])
    ), "the future has to differ for this test to mean anything"


def _liked(dataset: Dataset, ready: Prepared) -> Interactions:
    positives = dataset.interactions.positives(min_rating=3, positive_actions=("watched", "liked"))
    return positives.before(ready.period_starts[-1])


def test_queries_hold_positives_and_the_asked_number_of_others(dataset: Dataset) -> None:
    data = _queries(prepare(dataset, CONFIG), CONFIG)
    assert data.groups.sum() == len(data.matrix) == len(data.labels) > 0
    query = np.repeat(np.arange(len(data.groups)), data.groups)
    positives = np.bincount(query, weights=data.labels[:, 0])
    assert (positives >= 1).all()
    assert (data.groups - positives <= 5).all()


def test_answers_alone_hold_what_was_refused_too(dataset: Dataset) -> None:
    ranker = CONFIG.ranker.model_copy(update={"learn_from": "answers"})
    config = CONFIG.model_copy(update={"ranker": ranker})
    data = _queries(prepare(dataset, config), config)
    # Every row was answered; people watch or like some seven in ten, so both kinds are there, and neither rules.
    assert 0.5 < data.labels[:, 0].mean() < 0.95


def test_shards_are_whole_queries_and_lose_nothing(dataset: Dataset) -> None:
    data = _queries(prepare(dataset, CONFIG), CONFIG)
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
