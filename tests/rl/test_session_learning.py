"""Learning within a session: it starts from the trained networks every time, and changes what is recommended after."""

import copy

import numpy as np
import pytest
import torch

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.models.drr import balanced
from rec.models.drr_agent import DRRAgent
from rl.config import DRRTrainConfig, RatingEnvConfig
from rl.drr_module import DRRModule
from rl.pmf import FitReport, MatrixFactorisation
from rl.pmf_env import RatingWorld
from rl.rating_evaluation import by_actor, play
from rl.session_learning import MODULE_FOLDER, play_learning, trained_module

N_USERS, N_ITEMS, K = 12, 40, 4
USERS = np.array([3, 7, 3, 0, 11])
SEED = 5


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    users, items = rng.choice([-1.0, 1.0], (N_USERS, K)), rng.normal(0, 0.7, (N_ITEMS, K))
    return MatrixFactorisation(3.0, np.zeros(N_USERS), np.zeros(N_ITEMS), users, items, FitReport((), 0))


@pytest.fixture(scope="module")
def world(model):
    rng = np.random.default_rng(1)
    known = Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=np.repeat(np.arange(N_USERS), 10).astype(np.int32),
        item=np.concatenate([rng.permutation(N_ITEMS)[:10] for _ in range(N_USERS)]).astype(np.int32),
        timestamp=np.arange(10 * N_USERS),
        rating=rng.integers(1, 6, 10 * N_USERS).astype(np.float32),
    )
    return RatingWorld.of(known, model, RatingEnvConfig(history_length=3, session_length=6))


def module_of(model, rate):
    """Networks that learn at this rate."""
    torch.manual_seed(0)
    users, items = balanced(model.user_factors, model.item_factors)
    config = DRRTrainConfig(
        network=DRRNetworkConfig(history_length=3, hidden=16),
        batch_size=16,
        actor_learning_rate=rate,
        critic_learning_rate=rate,
    )
    given = {"config": config, "user_vectors": users, "item_vectors": items, "epsilon": [(0, 0.0)]}
    module = DRRModule(model_config=given)
    module.make_target_networks()
    return module


def test_without_learning_it_plays_as_the_actor_does(world, model):
    module = module_of(model, rate=1e-30)
    found, expected = play_learning(world, module, USERS, SEED), play(world, by_actor(module.actor), USERS, SEED)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.rewards, expected.rewards)
    np.testing.assert_array_equal(found.lengths, expected.lengths)


def test_every_session_starts_from_the_trained_networks_and_leaves_them_as_they_were(world, model):
    module = module_of(model, rate=0.1)
    before = copy.deepcopy(module.state_dict())
    found, fixed = play_learning(world, module, USERS, SEED), play(world, by_actor(module.actor), USERS, SEED)
    np.testing.assert_array_equal(found.items[:, 0], fixed.items[:, 0])
    assert (found.items[:, 1:] != fixed.items[:, 1:]).any(axis=1).all()
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


def test_a_checkpoint_holds_all_networks_of_the_agent_and_of_no_other(model, tmp_path):
    module = module_of(model, rate=1e-3)
    for weight in module.target_critic.parameters():
        weight.data.add_(0.25)
    module.save_to_path(str(tmp_path / MODULE_FOLDER))
    agent = DRRAgent(copy.deepcopy(module.actor), module.settings.network)
    found = trained_module(tmp_path, agent).state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in module.state_dict().items())
    next(agent.actor.parameters()).data.add_(1)
    with pytest.raises(ConfigError, match="of another agent"):
        trained_module(tmp_path, agent)
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        trained_module(tmp_path / "none", agent)
