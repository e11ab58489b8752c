"""A model whose vocabularies grow answers as it did."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rec.config import BranchConfig, EncodersConfig, RetrieverConfig, TowerConfig, UserTowerConfig
from rec.data.dataset import Dataset
from rec.features.encoders import Encoders
from rec.features.growth import grown
from rec.models.growth import grown_weights
from rec.models.tower import embedding_size
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.models.weights import put_weights
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

N_KNOWN = 30
BRANCHES = (
    BranchConfig(features=("initial_views", "creator"), hidden=(8,)),
    BranchConfig(features=("creator", "item_id", "category")),
    BranchConfig(features=("duration_s",)),
)
CONFIGS = {
    "plain": RetrieverConfig(output_dim=8),
    "branches": RetrieverConfig(
        output_dim=8,
        item_tower=TowerConfig(embedding_dim=16, branches=BRANCHES, hidden=()),
        user_tower=UserTowerConfig(embedding_dim=16, without=(), hidden=(12,)),
    ),
    "sparse": RetrieverConfig(output_dim=8, sparse_embeddings=True),
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=60, n_videos=200, n_creators=150, sessions_per_user=5)).dataset()


@pytest.fixture(scope="module")
def before(dataset: Dataset) -> Encoders:
    log = dataset.interactions
    return Encoders.fit(dataset, log.take((log.item < N_KNOWN) & (log.user < N_KNOWN)), EncodersConfig(hash_slots=3))


def _model(config: RetrieverConfig, encoders: Encoders) -> TwoTower:
    torch.manual_seed(1)
    return TwoTower(config, encoders.specs)


def _grown(model: TwoTower, config: RetrieverConfig, before: Encoders, after: Encoders) -> TwoTower:
    larger = TwoTower(config, after.specs)
    put_weights(larger, grown_weights(model, before, config, after, seed=0))
    return larger


def _vectors(model: TwoTower, encoders: Encoders, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Of all users, who have some known items behind them, and of all items; as-of features are any numbers."""
    rng = np.random.default_rng(2)
    sides = {}
    for side, frame in (("user", dataset.users), ("item", dataset.items)):
        encoded = encoders.encode(side, frame)
        numbers = {name for name, spec in encoders.specs.items() if spec.side == side} - encoded.keys()
        sides[side] = encoded | {name: rng.normal(size=len(frame)).astype(np.float32) for name in sorted(numbers)}
    history = rng.integers(0, N_KNOWN, (len(dataset.users), 10))
    slots = encoders.slots("item_id", dataset.interactions.item_ids)[history]
    return user_vectors(model, sides["user"], slots), item_vectors(model, sides["item"])


@pytest.mark.parametrize("name", CONFIGS)
def test_growing_changes_no_answer_about_anybody_known_or_new(name, dataset, before):
    config = CONFIGS[name]
    after = grown(before, dataset, dataset.interactions)
    widths = [embedding_size("creator", each.specs["creator"], 64) for each in (before, after)]
    assert widths[1] > widths[0], "an embedding has to become wider"
    model = _model(config, before)
    larger = _grown(model, config, before, after)
    assert larger.item_tower.embeddings["item_id"].table.num_embeddings == after.cardinality("item_id")
    found, expected = _vectors(larger, after, dataset), _vectors(model, before, dataset)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_known_ids_keep_their_very_rows_and_the_expired_lose_theirs(dataset, before):
    log = dataset.interactions
    latest = np.zeros(log.n_items, np.int64)
    np.maximum.at(latest, log.item, log.timestamp)
    cut_ms = int(np.median(latest[:N_KNOWN]))
    after = grown(before, dataset, log, expire_before_ms=cut_ms)
    config = CONFIGS["plain"]
    model = _model(config, before)
    larger = _grown(model, config, before, after)
    old, new = (each.item_tower.embeddings["item_id"].table.weight for each in (model, larger))
    gone = set(before.vocabularies["item_id"]) - set(after.vocabularies["item_id"])
    kept = [item for item in before.vocabularies["item_id"] if item not in gone]
    assert gone and kept
    assert torch.equal(new[after.slots("item_id", kept)], old[before.slots("item_id", kept)])
    assert len(new) == after.cardinality("item_id") == 1 + len(after.vocabularies["item_id"]) + 3
    rows = {tuple(row.tolist()) for row in new}
    assert not any(tuple(row.tolist()) in rows for row in old[before.slots("item_id", sorted(gone))])


def test_growing_by_nothing_is_the_identity(dataset, before):
    config = CONFIGS["branches"]
    model = _model(config, before)
    weights = grown_weights(model, before, config, replace(before), seed=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor), name


def test_what_becomes_wider_can_be_learned(dataset, before):
    """The new numbers of an embedding are ignored at first, but not cut off from the gradient."""
    config = CONFIGS["plain"]
    after = grown(before, dataset, dataset.interactions)
    larger = _grown(_model(config, before), config, before, after)
    items = after.encode("item", dataset.items)
    items |= {
        name: np.zeros(len(dataset.items), np.float32)
        for name, spec in after.specs.items()
        if spec.side == "item" and name not in items
    }
    larger.embed_items({name: torch.from_numpy(values) for name, values in items.items()})[:, 0].sum().backward()
    first = next(layer for layer in larger.item_tower.join if isinstance(layer, torch.nn.Linear))
    assert first.weight.grad is not None
    ignored = (first.weight == 0).all(dim=0)
    assert ignored.any() and (first.weight.grad[:, ignored] != 0).any()
