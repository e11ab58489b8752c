import numpy as np
import pytest

from rec.config import BranchConfig, RetrieverConfig, UserTowerConfig
from rec.features.encoders import FeatureSpec
from rec.models.two_tower import TwoTower, user_vectors
from rec.models.user_queries import UserQueries

SPECS = {
    "country": FeatureSpec("categorical", "user", 9, 1),
    "age": FeatureSpec("numeric", "user", 0, 1),
    "hobbies": FeatureSpec("multi_hot", "user", 6, 3),
    "about_text": FeatureSpec("text", "user", 50, 4),
    "face": FeatureSpec("vector", "user", 0, 5),
    "item_id": FeatureSpec("categorical", "item", 21, 1),
}
TOWERS = {
    "plain": UserTowerConfig(without=(), history_windows=(6, 2)),
    "without a history": UserTowerConfig(without=(), history_windows=()),
    "linear": UserTowerConfig(without=(), history_windows=(6,), hidden=()),
    "branches and dropout": UserTowerConfig(
        branches=(
            BranchConfig(features=("history",), hidden=(8,)),
            BranchConfig(features=("age", "country")),
            BranchConfig(features=("hobbies", "about_text", "face"), hidden=(8, 8)),
        ),
        without=(),
        hidden=(16,),
        dropout=0.5,
        history_windows=(6, 2),
    ),
}


def _users(n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Users of all sorts of features, the first of whom nothing is known."""
    rng = np.random.default_rng(0)
    users = {
        "country": rng.integers(0, 9, n).astype(np.int32),
        "age": rng.normal(size=n).astype(np.float32),
        "hobbies": rng.integers(0, 6, (n, 3)).astype(np.int32),
        "about_text": rng.integers(0, 50, (n, 4)).astype(np.int32),
        "face": rng.normal(size=(n, 5)).astype(np.float32),
    }
    history = np.where(np.arange(6) >= rng.integers(0, 7, n)[:, None], rng.integers(1, 21, (n, 6)), 0)
    for values in (*users.values(), history):
        values[0] = 0
    return users, history.astype(np.int32)


@pytest.mark.parametrize("tower", TOWERS.values(), ids=TOWERS)
def test_numpy_embeds_users_as_torch_does(tower: UserTowerConfig):
    model = TwoTower(RetrieverConfig(user_tower=tower, output_dim=16), SPECS)
    users, history = _users(40)
    np.testing.assert_allclose(UserQueries(model)(users, history), user_vectors(model, users, history), atol=2e-6)


def test_users_do_not_depend_on_how_they_are_blocked(monkeypatch):
    queries = UserQueries(TwoTower(RetrieverConfig(user_tower=TOWERS["plain"]), SPECS))
    users, history = _users(7)
    together = queries(users, history)
    monkeypatch.setattr("rec.models.user_queries.BLOCK", 3)
    np.testing.assert_allclose(queries(users, history), together, atol=1e-6)
