import numpy as np
import pytest
import torch

from rec.config import BranchConfig, RetrieverConfig, TowerConfig, UserTowerConfig
from rec.errors import BundleError, ConfigError
from rec.features.encoders import FeatureSpec
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.models.weights import load_weights, save_weights

SPECS = {
    "user_id": FeatureSpec("categorical", "user", 9, 1),
    "age": FeatureSpec("numeric", "user", 0, 1),
    "item_id": FeatureSpec("categorical", "item", 21, 1),
    "genres": FeatureSpec("multi_hot", "item", 6, 3),
    "words": FeatureSpec("text", "item", 50, 4),
    "image": FeatureSpec("vector", "item", 0, 5),
}


def _items(n: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "item_id": np.arange(1, n + 1, dtype=np.int32),
        "genres": rng.integers(0, 6, (n, 3)).astype(np.int32),
        "words": rng.integers(0, 50, (n, 4)).astype(np.int32),
        "image": rng.normal(size=(n, 5)).astype(np.float32),
    }


def _users(n: int = 4) -> dict[str, np.ndarray]:
    return {"user_id": np.arange(n, dtype=np.int32), "age": np.linspace(-1, 1, n, dtype=np.float32)}


HISTORY = np.array([[0, 0, 0], [0, 0, 4], [0, 7, 4], [1, 2, 3]], np.int32)


def test_embeddings_have_length_one_whatever_the_features():
    model = TwoTower(RetrieverConfig(output_dim=16), SPECS)
    np.testing.assert_allclose(np.linalg.norm(item_vectors(model, _items()), axis=1), 1, rtol=1e-5)
    users = user_vectors(model, _users(), HISTORY)
    assert users.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, rtol=1e-5)


def test_blocks_do_not_change_the_embeddings():
    model = TwoTower(RetrieverConfig(), SPECS)
    np.testing.assert_allclose(item_vectors(model, _items(), block=3), item_vectors(model, _items()), atol=1e-6)


def test_sides_have_their_own_features_sizes_and_any_number_of_branches():
    config = RetrieverConfig(
        user_tower=UserTowerConfig(
            branches=(
                BranchConfig(features=("history",), hidden=(32,)),
                BranchConfig(features=("age",)),
                BranchConfig(features=("user_id", "age"), hidden=(8, 8)),
            ),
            without=(),
            hidden=(),
        ),
        item_tower=TowerConfig(embedding_dim=12, branches=(BranchConfig(features=("item_id", "words")),), hidden=(64,)),
        output_dim=8,
    )
    model = TwoTower(config, SPECS)
    assert set(model.item_tower.embeddings) == {"item_id", "words"}
    assert len(model.user_tower.branches) == 3
    assert user_vectors(model, _users(), HISTORY).shape == (4, 8)


def test_every_layer_has_weights_of_its_own():
    model = TwoTower(RetrieverConfig(user_tower=UserTowerConfig(hidden=(32, 32, 32))), SPECS)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len({layer.weight.data_ptr() for layer in linear}) == len(linear) == 6


def test_the_history_is_pooled_with_the_item_embeddings():
    config = RetrieverConfig(user_tower=UserTowerConfig(history_windows=(3, 1)))
    model = TwoTower(config, SPECS)
    table = model.item_tower.embeddings["item_id"].table
    pooled = model._pool(torch.tensor(HISTORY))
    size = config.item_tower.embedding_dim
    torch.testing.assert_close(pooled[2, :size], (table.weight[7] + table.weight[4]) / 2)
    torch.testing.assert_close(pooled[2, size:], table.weight[4])
    assert torch.equal(pooled[0], torch.zeros(2 * size))
    model.embed_users({"age": torch.zeros(1), "history": torch.tensor([[0, 7, 4]])}).sum().backward()
    assert set(table.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) == {4, 7}


def test_sparse_tables_have_sparse_gradients_equal_to_the_dense_ones():
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = TwoTower(RetrieverConfig(sparse_embeddings=sparse), SPECS)
        users = {"age": torch.ones(4), "history": torch.tensor(HISTORY)}
        items = {name: torch.tensor(values[:4]) for name, values in _items().items()}
        left, right = model(users, items)
        (left * right).sum().backward()
        gradients.append(model.item_tower.embeddings["item_id"].table.weight.grad)
    assert not gradients[0].is_sparse and gradients[1].is_sparse
    torch.testing.assert_close(gradients[0], gradients[1].to_dense())


def test_saved_and_loaded_weights_give_equal_scores(tmp_path):
    torch.manual_seed(0)
    model = TwoTower(RetrieverConfig(), SPECS)
    save_weights(model, tmp_path / "retriever.safetensors")
    torch.manual_seed(1)
    other = TwoTower(RetrieverConfig(), SPECS)
    assert not np.array_equal(item_vectors(other, _items()), item_vectors(model, _items()))
    load_weights(other, tmp_path / "retriever.safetensors")
    np.testing.assert_array_equal(item_vectors(other, _items()), item_vectors(model, _items()))
    np.testing.assert_array_equal(user_vectors(other, _users(), HISTORY), user_vectors(model, _users(), HISTORY))


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    file = tmp_path / "retriever.safetensors"
    save_weights(TwoTower(RetrieverConfig(output_dim=8), SPECS), file)
    with pytest.raises(BundleError, match=r"item_tower\.join.*retriever\.safetensors"):
        load_weights(TwoTower(RetrieverConfig(), SPECS), file)
    file.write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"retriever\.safetensors"):
        load_weights(TwoTower(RetrieverConfig(), SPECS), file)


def test_id_dropout_shows_a_share_of_rows_as_if_they_were_new_in_training_alone():
    """With one slot for unknown ids a row is embedded as it is, or as an item of its features that nobody knows."""
    specs = {
        **SPECS,
        "item_id": FeatureSpec("categorical", "item", 21, 1, first_unknown=20),
        "item_count_all": FeatureSpec("numeric", "item", 0, 1, without_events=-1.5),
    }
    torch.manual_seed(0)
    model = TwoTower(RetrieverConfig(item_tower=TowerConfig(id_dropout=0.3)), specs)
    n, rng = 2000, np.random.default_rng(0)
    items = {name: np.resize(values, (n, *values.shape[1:])) for name, values in _items(19).items()}
    items["item_count_all"] = rng.normal(size=n).astype(np.float32)
    nobody_knows = {"item_id": np.full(n, 20, np.int32), "item_count_all": np.full(n, -1.5, np.float32)}
    known, new = item_vectors(model, items), item_vectors(model, {**items, **nobody_knows})
    with torch.inference_mode():
        found = model.train().embed_items({name: torch.tensor(values) for name, values in items.items()}).numpy()
    is_known, is_new = (np.isclose(found, vectors, atol=1e-6).all(axis=1) for vectors in (known, new))
    assert (is_known ^ is_new).all()
    assert abs(is_new.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / n)
    np.testing.assert_array_equal(item_vectors(model, items), known)


def test_what_a_user_did_stays_when_the_id_is_dropped():
    specs = {
        **SPECS,
        "user_id": FeatureSpec("categorical", "user", 9, 1, first_unknown=8),
        "user_count_all": FeatureSpec("numeric", "user", 0, 1, without_events=-1.5),
    }
    torch.manual_seed(0)
    model = TwoTower(RetrieverConfig(user_tower=UserTowerConfig(without=(), id_dropout=0.5)), specs)
    users = {"user_id": np.arange(8, dtype=np.int32), "user_count_all": np.linspace(-1, 1, 8, dtype=np.float32)}
    users["age"], history = users["user_count_all"], np.resize(HISTORY[1:], (8, 3))
    known = user_vectors(model, users, history)
    new = user_vectors(model, {**users, "user_id": np.full(8, 8, np.int32)}, history)
    with torch.inference_mode():
        inputs = {name: torch.tensor(values) for name, values in {**users, "history": history}.items()}
        found = model.train().embed_users(inputs).numpy()
    is_new = np.isclose(found, new, atol=1e-6).all(axis=1)
    assert 0 < is_new.sum() < 8
    np.testing.assert_allclose(found[~is_new], known[~is_new], atol=1e-6)


def test_dropout_of_user_ids_that_are_not_read_is_refused():
    with pytest.raises(ValueError, match="id_dropout has no effect"):
        UserTowerConfig(id_dropout=0.2)


def test_a_branch_of_features_there_are_not_is_refused():
    tower = TowerConfig(branches=(BranchConfig(features=("genre",)),))
    with pytest.raises(ConfigError, match="no item feature 'genre'; there are item_id, genres"):
        TwoTower(RetrieverConfig(item_tower=tower), SPECS)
    with pytest.raises(ConfigError, match="history is pooled with the embeddings of item_id"):
        TwoTower(RetrieverConfig(item_tower=TowerConfig(without=("item_id",))), SPECS)
