"""Going on with a model, on a world whose second half brings new items: as good as beginning anew."""

from dataclasses import replace

import numpy as np
import pytest

from rec.config import QueriesConfig, RetrieverConfig, TowerConfig, TrainingConfig, UserTowerConfig
from rec.data.dataset import Dataset
from rec.features.encoders import Encoders
from rec.features.growth import grown
from rec.features.snapshot import Snapshot
from rec.models.growth import grown_weights
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.models.weights import put_weights
from rec.retrieval.two_tower import TwoTowerSource
from rec.retriever.data import NewPeriod, build_retrieval_data, build_validation
from rec.retriever.task import RetrieverTask
from rec.training import fit

DAY_MS = 86_400_000
HALF_MS, END_MS = 50 * DAY_MS, 100 * DAY_MS
CONFIG = RetrieverConfig(
    user_tower=UserTowerConfig(history_windows=(20, 3), embedding_dim=16, hidden=(32,)),
    item_tower=TowerConfig(embedding_dim=16, hidden=(32,)),
    output_dim=16,
    mixed_negatives=16,
    positives_per_query=1,
    queries=QueriesConfig(snapshots=4, half_life_days=None, horizon_days=None, epoch_share=1, min_batches=1),
)
TRAINING = TrainingConfig(workers=0, epochs=30, batch_size=128, learning_rate=0.003, patience=30)


@pytest.fixture(scope="module")
def two_halves(checkerboard) -> Dataset:
    """Users like what is of their parity: seven of items 0..29, later six of all, and one at the end to judge by."""
    rng = np.random.default_rng(3)
    log = checkerboard.dataset.interactions
    parts = []
    for owner in range(log.n_users):
        old = rng.permutation(np.arange(owner % 2, 30, 2))
        parts += [old[:7], rng.permutation(np.concatenate([old[7:], np.arange(30 + owner % 2, 60, 2)]))[:7]]
    user = np.repeat(np.arange(log.n_users, dtype=np.int32), 14)
    times = [np.sort(rng.integers(low, low + HALF_MS, (log.n_users, 7)), axis=1) for low in (0, HALF_MS)]
    times[1][:, -1] = END_MS + np.arange(log.n_users)
    item, timestamp = np.concatenate(parts).astype(np.int32), np.concatenate(times, axis=1).ravel()
    return replace(checkerboard.dataset, interactions=replace(log, user=user, item=item, timestamp=timestamp))


def _task(dataset: Dataset, encoders: Encoders, end_ms: int, new: NewPeriod | None = None) -> RetrieverTask:
    liked = dataset.interactions
    snapshot = Snapshot.build(dataset, encoders, liked, end_ms, 20)
    valid = build_validation(snapshot, liked.between(end_ms, end_ms + HALF_MS), history_length=20)
    data = build_retrieval_data(dataset, encoders, liked, liked, CONFIG.queries, end_ms=end_ms, valid=valid, new=new)
    return RetrieverTask(data, CONFIG, TRAINING.batch_size, seed=0)


def _model(encoders: Encoders, weights: dict) -> TwoTower:
    model = TwoTower(CONFIG, encoders.specs)
    put_weights(model, weights)
    return model


def _right(dataset: Dataset, encoders: Encoders, model: TwoTower) -> float:
    """Share of the users' parity among the five unseen items that each is offered first."""
    snapshot = Snapshot.build(dataset, encoders, dataset.interactions, END_MS, 20)
    states = snapshot.user_states(np.arange(dataset.interactions.n_users))
    users = user_vectors(model, states.features, snapshot.history_slots(states.history))
    scores = users @ item_vectors(model, snapshot.items).T
    owner = np.repeat(np.arange(len(scores)), np.diff(states.excluded_indptr))
    scores[owner, states.excluded] = -np.inf
    return float((scores.argsort(axis=1)[:, -5:] % 2 == np.arange(len(scores))[:, None] % 2).mean())


@pytest.mark.slow
def test_going_on_with_replay_is_as_good_as_beginning_anew_and_staying_is_not(two_halves):
    """Ids say everything here, and of those that came later the first model knows nothing, where chance is a half."""
    log = two_halves.interactions.before(END_MS)
    before, fresh = (Encoders.fit(two_halves, log.before(end_ms)) for end_ms in (HALF_MS, END_MS))
    after = grown(before, two_halves, log)
    assert len(after.vocabularies["item_id"]) == 2 * len(before.vocabularies["item_id"]) == 60

    anew = fit(_task(two_halves, fresh, END_MS), TRAINING, seed=0)
    first = fit(_task(two_halves, before, HALF_MS), TRAINING, seed=0)
    weights = grown_weights(_model(before, first.weights), before, CONFIG, after, seed=0)
    shorter = TRAINING.model_copy(update={"epochs": 15})
    on = fit(_task(two_halves, after, END_MS, NewPeriod(HALF_MS, 0.5)), shorter, seed=0, init_from=weights)

    assert _right(two_halves, fresh, _model(fresh, anew.weights)) > 0.95
    assert _right(two_halves, after, _model(after, on.weights)) > 0.95
    assert _right(two_halves, after, _model(after, weights)) < 0.85


def test_an_expired_item_is_no_negative_no_history_and_no_candidate(checkerboard):
    liked = checkerboard.dataset.interactions.before(checkerboard.cut_ms)
    latest = np.zeros(liked.n_items, np.int64)
    np.maximum.at(latest, liked.item, liked.timestamp)
    cut_ms = int(np.sort(latest)[5])
    expired = latest < cut_ms
    encoders = grown(checkerboard.encoders, checkerboard.dataset, liked, expire_before_ms=cut_ms)
    assert expired.sum() == 5 and (latest > 0).all()

    new = NewPeriod(checkerboard.cut_ms * 9 // 10, 0.5, cut_ms)
    data = build_retrieval_data(
        checkerboard.dataset, encoders, liked, liked, CONFIG.queries, end_ms=checkerboard.cut_ms, new=new
    )
    np.testing.assert_array_equal(data.catalogue, np.flatnonzero(~expired))
    assert np.isneginf(data.log_q[:, expired]).all(), "nothing drawn to be found is expired"
    slots = data.tables.items["item_id"]
    assert not np.isin(data.tables.log, slots[expired]).any() and (data.tables.log == 0).any()

    snapshot = Snapshot.build(checkerboard.dataset, encoders, liked, checkerboard.cut_ms, 20)
    source = TwoTowerSource.build(TwoTower(CONFIG, encoders.specs), snapshot)
    np.testing.assert_array_equal(source.eligible, ~expired)
