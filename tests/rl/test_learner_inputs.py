"""What a learner is given: values of the network that each belongs to, noise that was asked for, and every setting."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns

from rec.config.drr import DRRNetworkConfig
from rl.config import DQNTrainConfig, DRRTrainConfig
from rl.dqn import CandidateQModule, dqn_config
from rl.drr import RatingVectors, drr_config
from rl.drr_module import ACTOR_Q, NEXT_Q, DRRModule, Q
from rl.session_env import SessionVectorEnv
from tests.rl.marshmallow import CONFIG, INPUTS, Marshmallow

N_USERS, N_ITEMS, K, HISTORY = 5, 9, 4, 3


@pytest.fixture
def candidate_q(request):
    torch.manual_seed(0)
    network = CONFIG.network.model_dump(mode="json")
    given = {"inputs": INPUTS.model_dump(mode="json"), "network": network, "epsilon": [(0, 0.0)]}
    module = CandidateQModule(model_config=given | {"double_q": request.param})
    module.make_target_networks()
    return module


@pytest.mark.parametrize("candidate_q", [True, False], indirect=True)
def test_dqn_values_what_comes_next_by_its_target(candidate_q):
    seen, seen_next = (
        {name: torch.as_tensor(values) for name, values in SessionVectorEnv(Marshmallow(8)).reset(seed=s)[0].items()}
        for s in (0, 100)
    )
    shift(candidate_q.target)
    out = candidate_q.forward_train({Columns.OBS: seen, Columns.NEXT_OBS: seen_next})
    expected = {QF_PREDS: candidate_q.network(seen), QF_TARGET_NEXT_PREDS: candidate_q.target(seen_next)}
    if candidate_q.model_config["double_q"]:
        expected[QF_NEXT_PREDS] = candidate_q.network(seen_next)
    assert out.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(out[name], values)
    assert not torch.allclose(candidate_q.target(seen_next), candidate_q.network(seen_next))
    assert not out[QF_TARGET_NEXT_PREDS].requires_grad


def drr_module(**changes):
    torch.manual_seed(0)
    config = DRRTrainConfig(network=DRRNetworkConfig(history_length=HISTORY, hidden=8), **changes)
    vectors = {"user_vectors": torch.rand(N_USERS, K) - 0.5, "item_vectors": torch.randn(N_ITEMS, K)}
    module = DRRModule(model_config={"config": config, **vectors, "epsilon": [(0, 0.0)]})
    module.make_target_networks()
    return module


def states_of(n):
    rng = np.random.default_rng(0)
    return {
        "user": torch.from_numpy(rng.integers(0, N_USERS, n)),
        "history": torch.from_numpy(rng.integers(0, N_ITEMS + 1, (n, HISTORY))),
        "shown": torch.from_numpy(rng.integers(0, N_ITEMS, (n, 1))),
    }


def shift(network):
    """Adds a little to all weights."""
    for weight in network.parameters():
        weight.data.add_(0.1)


@pytest.mark.parametrize("changed", ["target_actor", "target_critic", "actor", "critic"])
def test_drr_values_what_comes_next_by_both_targets_alone(changed):
    module, states = drr_module(), states_of(20)
    batch = {Columns.OBS: states, Columns.NEXT_OBS: states, Columns.ACTIONS: torch.zeros(20, K + 1)}
    before = module.forward_train(batch)
    shift(getattr(module, changed))
    after = module.forward_train(batch)
    moved = {name for name in (Q, ACTOR_Q, NEXT_Q) if not torch.allclose(before[name], after[name])}
    assert moved == {"actor": {ACTOR_Q}, "critic": {Q, ACTOR_Q}}.get(changed, {NEXT_Q})


def test_gaussian_exploration_has_the_noise_that_was_asked_for():
    module, batch = drr_module(exploration="gaussian", noise=0.05), {Columns.OBS: states_of(2000)}
    chosen, tried = (
        copy.copy(forward(batch, t=0))[Columns.ACTIONS].detach().numpy()
        for forward in (module.forward_inference, module.forward_exploration)
    )
    noise = (tried - chosen)[:, :-1][np.abs(chosen[:, :-1]) < 0.7]
    assert len(noise) > 1000 and (tried[:, -1] == 0).all() and np.abs(tried).max() <= 1
    assert abs(noise.mean()) < 4 * 0.05 / np.sqrt(len(noise))
    assert abs(noise.std() - 0.05) < 4 * 0.05 / np.sqrt(2 * len(noise))


@pytest.mark.parametrize("double", [True, False])
def test_rllib_is_told_every_setting_of_dqn(double):
    asked = CONFIG.model_copy(
        update={
            "double": double,
            "loss": "mse" if double else "huber",
            "target_every": 7 if double else 0,
            "tau": 0.3,
            "discount": 0.7,
            "warmup_steps": 11,
            "training_intensity": 3.0,
        }
    )
    told: Any = dqn_config(Marshmallow, INPUTS, DQNTrainConfig.model_validate(asked.model_dump()))
    assert told.rl_module_spec.model_config["double_q"] is told.double_q is double
    assert told.td_error_loss_fn == asked.loss
    assert told.target_network_update_freq == asked.target_every
    assert (told.tau, told.gamma, told.training_intensity) == (0.3, 0.7, 3.0)
    assert told.num_steps_sampled_before_learning_starts == 11
    assert (told.replay_buffer_config["alpha"], told.replay_buffer_config["beta"]) == (0.6, 0.4)


def test_rllib_is_told_every_setting_of_drr():
    asked = DRRTrainConfig(
        discount=0.7,
        tau=0.3,
        warmup_steps=11,
        training_intensity=3.0,
        batch_size=12,
        priority_exponent=0.5,
        weight_exponent=0.2,
        actor_learning_rate=0.1,
        critic_learning_rate=0.2,
    )
    told = drr_config(Marshmallow, RatingVectors(torch.rand(N_USERS, K), torch.rand(N_ITEMS, K)), asked)
    assert (told.tau, told.gamma, told.training_intensity, told.target_network_update_freq) == (0.3, 0.7, 3.0, 0)
    assert (told.num_steps_sampled_before_learning_starts, told.train_batch_size_per_learner) == (11, 12)
    assert (told.replay_buffer_config["alpha"], told.replay_buffer_config["beta"]) == (0.5, 0.2)
    assert (told.actor_lr, told.critic_lr) == (0.1, 0.2)
