"""What a learner is given: values of the network that each belongs to, noise that was asked for, and every setting."""

import copy

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns

from rec.config import CandidateQConfig
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


# What each setting is when it is not the default, and what RLlib, or the module that it makes, was told of it.
REPLAYED = {
    "replay_capacity": (777, lambda told: told.replay_buffer_config["capacity"]),
    "priority_exponent": (0.5, lambda told: told.replay_buffer_config["alpha"]),
    "weight_exponent": (0.2, lambda told: told.replay_buffer_config["beta"]),
}
PLAYED = {
    "sessions": (9, lambda told: told.num_envs_per_env_runner),
    "steps_per_report": (123, lambda told: told.min_sample_timesteps_per_iteration),
    "seed": (5, lambda told: told.seed),
    "discount": (0.7, lambda told: told.gamma),
    "tau": (0.3, lambda told: told.tau),
    "warmup_steps": (11, lambda told: told.num_steps_sampled_before_learning_starts),
    "training_intensity": (3.0, lambda told: told.training_intensity),
    "batch_size": (12, lambda told: told.total_train_batch_size),
    "exploration_steps": (321, lambda told: epsilon(told)[1][0]),
    "final_epsilon": (0.25, lambda told: epsilon(told)[1][1]),
}
OF_DQN = {
    "network": (CandidateQConfig(hidden=7, dueling=False), lambda told: network_of(told)),
    "env_runners": (2, lambda told: told.num_env_runners),
    "steps_between_updates": (6, lambda told: told.rollout_fragment_length),
    "learning_rate": (0.5, lambda told: told.lr[0][1]),
    "final_learning_rate": (0.125, lambda told: told.lr[1][1] / told.lr[0][1]),
    "total_steps": (4321, lambda told: told.lr[1][0]),
    "double": (False, lambda told: same(module(told)["double_q"], told.double_q)),
    "loss": ("huber", lambda told: told.td_error_loss_fn),
    "target_every": (7, lambda told: told.target_network_update_freq),
}
OF_DRR = {
    "network": (DRRNetworkConfig(hidden=7), lambda told: module(told)["config"].network),
    "critic_reads": ("item", lambda told: module(told)["config"].critic_reads),
    "exploration": ("gaussian", lambda told: module(told)["config"].exploration),
    "noise": (0.3, lambda told: module(told)["config"].noise),
    "actor_learning_rate": (0.1, lambda told: told.actor_lr),
    "critic_learning_rate": (0.2, lambda told: told.critic_lr),
    # RLlib is not told when to end: `rl.training.train_agent` is, by `rl.run_cli`.
    "total_steps": (4321, lambda told: module(told)["config"].total_steps),
}


def module(told):
    return told.get_rl_module_spec().model_config


def same(ours, rllibs):
    assert ours is rllibs
    return ours


def network_of(told):
    network = CandidateQConfig.model_validate(module(told)["network"])
    same(network.dueling, told.dueling)
    return network


def epsilon(told):
    start, end = module(told)["epsilon"]
    assert tuple(start) == (0, 1.0)
    return start, end


def told_of_dqn(asked):
    return dqn_config(Marshmallow, INPUTS, asked)


def told_of_drr(asked):
    return drr_config(Marshmallow, RatingVectors(torch.rand(N_USERS, K), torch.rand(N_ITEMS, K)), asked)


@pytest.mark.parametrize(
    ("config", "settings", "told_of"),
    [
        (DQNTrainConfig, PLAYED | REPLAYED | OF_DQN, told_of_dqn),
        (DRRTrainConfig, PLAYED | REPLAYED | OF_DRR, told_of_drr),
    ],
)
def test_rllib_is_told_every_setting(config, settings, told_of):
    """A field that is new fails here until it is said how it arrives."""
    assert settings.keys() == config.model_fields.keys()
    default = config()
    by_default = told_of(default)
    told = told_of(config(**{name: value for name, (value, _) in settings.items()}))
    for name, (value, found) in settings.items():
        assert value != getattr(default, name) and found(by_default) == getattr(default, name), name
        assert found(told) == value, name


def test_targets_of_drr_follow_after_every_update():
    assert told_of_drr(DRRTrainConfig()).target_network_update_freq == 0
