import numpy as np
import pandas as pd
import pytest
import torch

from rec.config import IndexConfig, RetrieverConfig, TowerConfig, TrainConfig, UserTowerConfig
from rec.data.dataset import Dataset, Interactions
from rec.errors import BundleError
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.models.two_tower import TwoTower
from rec.retrieval.two_tower import INDEX_FILE, WEIGHTS_FILE, TwoTowerSource
from rec.schema import Feature, FeatureSchema

N_USERS, N_ITEMS = 12, 60
CONFIG = TrainConfig(retriever=RetrieverConfig(output_dim=16, user_tower=UserTowerConfig(history_windows=(8, 3))))
COLD = N_ITEMS - 1


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """Users 0..10 have taken items 0..58; user 11 nothing, and nobody item 59."""
    rng = np.random.default_rng(0)
    interactions = Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=np.append(rng.integers(N_USERS - 1, size=200), np.zeros(COLD)).astype(np.int32),
        item=np.append(rng.integers(COLD, size=200), np.arange(COLD)).astype(np.int32),
        timestamp=rng.integers(0, 10**9, size=200 + COLD),
    )
    users = pd.DataFrame({"user_id": interactions.user_ids, "age": rng.integers(18, 80, N_USERS).astype(float)})
    items = pd.DataFrame({"item_id": interactions.item_ids, "kind": rng.choice(["a", "b", "c"], N_ITEMS)})
    features = (Feature(name="age", kind="numeric", side="user"), Feature(name="kind", kind="categorical", side="item"))
    dataset = Dataset("world", interactions, users, items, FeatureSchema(features=features), sha256="")
    encoders = Encoders.fit(dataset, interactions)
    return Snapshot.build(dataset, encoders, interactions, 10**9, history_length=8)


@pytest.fixture(scope="module")
def source(snapshot) -> TwoTowerSource:
    torch.manual_seed(0)
    return TwoTowerSource.build(TwoTower(CONFIG.retriever, snapshot.encoders.specs).eval(), snapshot)


def test_candidates_are_the_nearest_items_that_were_taken_but_not_by_the_user(source, snapshot):
    states = snapshot.user_states(np.arange(1, N_USERS))
    found = source.candidates(states, 10)
    everything = np.tile(np.arange(N_ITEMS, dtype=np.int32), (len(states), 1))
    scores = source.scores(states, everything)
    scores[:, COLD] = -np.inf
    for row in range(len(states)):
        scores[row, states.excluded[states.excluded_indptr[row] : states.excluded_indptr[row + 1]]] = -np.inf
    np.testing.assert_array_equal(found.items, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    np.testing.assert_array_equal(found.scores, -np.sort(-scores, axis=1)[:, :10])
    assert found.source == "two_tower"


def test_items_that_nobody_took_are_candidates_of_towers_that_learned_to_do_without_ids(snapshot):
    towers = CONFIG.retriever.model_copy(update={"item_tower": TowerConfig(id_dropout=0.2)})
    source = TwoTowerSource.build(TwoTower(towers, snapshot.encoders.specs), snapshot)
    assert COLD in source.candidates(snapshot.user_states([11]), N_ITEMS).items


def test_a_user_who_took_everything_gets_nothing(source, snapshot):
    found = source.candidates(snapshot.user_states([0]), 5)
    np.testing.assert_array_equal(found.items, [[-1] * 5])
    assert np.isneginf(found.scores).all()


def test_a_user_never_seen_gets_candidates(source, snapshot):
    found = source.candidates(snapshot.user_states([-1]), 5)
    assert (found.items >= 0).all()


def test_similar_items_are_near_and_not_the_item(source):
    items, scores = source.similar(7, 10)
    assert 7 not in items
    embeddings = source.index.embeddings.astype(np.float64)
    np.testing.assert_allclose(scores, embeddings[items] @ embeddings[7], atol=1e-9)
    assert (np.diff(scores) <= 0).all()
    assert len(source.similar(7, 1000)[0]) == COLD - 1


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_what_is_loaded_finds_and_scores_the_same(source, snapshot, tmp_path, kind):
    config = CONFIG.model_copy(update={"index": IndexConfig(kind=kind)})
    built = TwoTowerSource.build(source.model, snapshot, config.index)
    assert built.save(tmp_path) == [WEIGHTS_FILE, INDEX_FILE]
    loaded = TwoTowerSource.load(tmp_path, config, snapshot)
    states = snapshot.user_states(np.arange(-1, N_USERS))
    one, other = built.candidates(states, 20), loaded.candidates(states, 20)
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, INDEX_FILE])
def test_a_missing_file_is_named(source, snapshot, tmp_path, name):
    source.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError) as caught:
        TwoTowerSource.load(tmp_path, CONFIG, snapshot)
    assert caught.value.file == str(tmp_path / name)


def test_an_index_of_another_catalogue_is_refused(source, snapshot, tmp_path):
    source.save(tmp_path)
    type(source.index).build(source.index.embeddings[:-1]).save(tmp_path / INDEX_FILE)
    with pytest.raises(BundleError, match="must hold 60 items of 16 numbers") as caught:
        TwoTowerSource.load(tmp_path, CONFIG, snapshot)
    assert caught.value.file == str(tmp_path / INDEX_FILE)
