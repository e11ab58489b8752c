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
from rl.dqn import batch_of
from rl.drr import RatingVectors, drr_config, ranked_rounds
from rl.drr_module import DRRModule
from rl.pmf import FitReport, MatrixFactorisation
from rl.pmf_env import RatingWorld
from rl.rating_evaluation import by_actor, play
from rl.replay import PrioritizedReplay, Transitions
from rl.session_learning import new_optimizers, play_learning, trained_module, update
from rl.training import MODULE_FOLDER

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


@pytest.mark.usefixtures("ray_session")
def test_updates_within_a_session_are_those_of_the_learner_in_training(world, model):
    """The same batches to both: networks and targets stay the same, and so do the errors by which more is drawn."""
    module = module_of(model, rate=1e-2)
    vectors = RatingVectors(*balanced(model.user_factors, model.item_factors))
    rounds = ranked_rounds(world, vectors)
    ours, theirs = (replay_of(rounds(1), module.settings) for _ in range(2))
    algorithm = drr_config(rounds, vectors, module.settings).build_algo()
    learners, optimizers = algorithm.learner_group, new_optimizers(module)
    try:
        learners.foreach_learner(lambda learner: networks(learner).load_state_dict(module.state_dict()))
        for number in range(3):
            steps, rows, weights = theirs.sample(module.settings.batch_size, beta=module.settings.weight_exponent)
            answers = learners.update(
                batch=batch_of(steps, weights), timesteps={"num_env_steps_sampled_lifetime": number}
            )
            errors = answers[0]["default_policy"]["td_error"].peek()
            theirs.update(rows, np.concatenate(errors))
            update(module, optimizers, ours)
        learnt = next(iter(learners.foreach_learner(lambda learner: networks(learner).state_dict()))).get()
    finally:
        algorithm.stop()
    assert learnt.keys() == module.state_dict().keys()
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(weight, learnt[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours._weight, theirs._weight, rtol=1e-3)


def networks(learner):
    return learner.module["default_policy"].unwrapped()


def replay_of(sessions, settings):
    """Forty steps of random ranking vectors."""
    rng, row = np.random.default_rng(0), np.zeros(1, np.int64)
    replay = PrioritizedReplay(
        sessions.observation_space, sessions.action_space, 100, alpha=settings.priority_exponent, rng=rng
    )
    sessions.seed(row, np.array([1], np.uint64))
    sessions.start(row)
    for _ in range(40):
        if sessions.done[0]:
            sessions.start(row)
        seen, action = sessions.observe(), rng.uniform(-1, 1, (1, K + 1)).astype(np.float32)
        outcome = sessions.act(action)
        reward = outcome.reward.astype(np.float32)
        replay.add(Transitions(seen, action, reward, sessions.observe(), outcome.done))
    return replay
