"""DRR: losses worked by hand, gradients that reach their own network alone, and a small task whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.models.drr import balanced
from rl.config import DRRTrainConfig, RatingEnvConfig
from rl.drr import RatingVectors, training
from rl.drr_learner import actor_loss, critic_loss, td_errors
from rl.drr_module import ACTOR_Q, NEXT_Q, DRRModule, Q, latest
from rl.pmf import FitReport, MatrixFactorisation
from rl.pmf_env import RatingWorld
from rl.rating_evaluation import at_random, by_actor, by_world, play

N_USERS, N_ITEMS, K, HISTORY = 20, 60, 4, 3
NETWORK = DRRNetworkConfig(history_length=HISTORY, hidden=64)


@pytest.fixture(scope="module")
def truth():
    """How users rate: 3 + u . i, where users are corners of a cube."""
    rng = np.random.default_rng(0)
    users, items = rng.choice([-1.0, 1.0], (N_USERS, K)), rng.normal(0, 0.7, (N_ITEMS, K))
    return MatrixFactorisation(3.0, np.zeros(N_USERS), np.zeros(N_ITEMS), users, items, FitReport((), 0))


@pytest.fixture(scope="module")
def world(truth):
    """Three items that each user likes are known as history; everything earned is by the truth."""
    liked = (-truth.predict(np.arange(N_USERS)[:, None], np.arange(N_ITEMS))).argsort(axis=1)[:, 5:8]
    known = Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=np.repeat(np.arange(N_USERS), 3).astype(np.int32),
        item=liked.reshape(-1).astype(np.int32),
        timestamp=np.arange(3 * N_USERS),
        rating=np.full(3 * N_USERS, 5, np.float32),
    )
    made = RatingWorld.of(known, truth, RatingEnvConfig(history_length=HISTORY, session_length=5))
    return replace(made, recommendable=np.ones(N_ITEMS, np.bool_))


@pytest.fixture(scope="module")
def vectors(truth):
    """The truth's, with the users' dimensions in another order: to rank by their products is no better than chance."""
    return RatingVectors(*balanced(truth.user_factors[:, [1, 2, 3, 0]], truth.item_factors))


def test_td_errors_worked_by_hand():
    """y = 1 + .5 * 4 = 3 and, at the end, 1: errors are 3 - 2 = 1 and 1 - 2 = -1; only Q has a gradient."""
    q, next_q = torch.tensor([2.0, 2.0], requires_grad=True), torch.tensor([4.0, 4.0], requires_grad=True)
    errors = td_errors(q, next_q, torch.ones(2), torch.tensor([False, True]), torch.tensor([1.0, 1.0]), discount=0.5)
    assert errors.tolist() == [1, -1]
    critic_loss(errors, torch.tensor([1.0, 0.5])).backward()
    assert q.grad is not None and q.grad.tolist() == [-1, 0.5] and next_q.grad is None


@pytest.mark.parametrize("loss", ["actor", "critic"])
def test_each_loss_has_a_gradient_for_its_own_network_alone(world, vectors, loss):
    torch.manual_seed(0)
    module = DRRModule(model_config=settings_of(vectors, DRRTrainConfig(network=NETWORK)))
    module.make_target_networks()
    out = module.forward_train(batch_of(8))
    value = actor_loss(out[ACTOR_Q]) if loss == "actor" else critic_loss(out[Q] - out[NEXT_Q], torch.ones(8))
    value.backward()
    reached = {name.split(".")[0] for name, weight in module.named_parameters() if weight.grad is not None}
    assert reached == {loss}
    assert getattr(module, loss).state.weights.grad.abs().min() > 0


def test_the_actor_climbs_where_its_critic_says(vectors):
    """The gradient of the actor's loss is -dQ/da at pi(s), through the actor."""
    torch.manual_seed(0)
    module = DRRModule(model_config=settings_of(vectors, DRRTrainConfig(network=NETWORK)))
    module.make_target_networks()
    batch = batch_of(8)
    actor_loss(module.forward_train(batch)[ACTOR_Q]).backward()
    found = [weight.grad.clone() for weight in module.actor.parameters()]
    module.zero_grad()
    action = module.actor(batch[Columns.OBS]["user"], batch[Columns.OBS]["history"])
    held = action.detach().requires_grad_()
    module.critic(batch[Columns.OBS]["user"], batch[Columns.OBS]["history"], held).mean().backward()
    module.actor.zero_grad()
    action.backward(-held.grad)
    for one, weight in zip(found, module.actor.parameters(), strict=True):
        torch.testing.assert_close(one, weight.grad)


def test_targets_start_as_copies_and_random_items_stand_for_themselves(vectors):
    torch.manual_seed(0)
    module = DRRModule(model_config=settings_of(vectors, DRRTrainConfig(network=NETWORK)))
    module.make_target_networks()
    for network, target in module.get_target_network_pairs():
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), target.parameters(), strict=True))
    batch = batch_of(8)
    recommended = batch[Columns.NEXT_OBS]["shown"][:, 1]
    read = module._done(batch[Columns.ACTIONS], latest(batch[Columns.NEXT_OBS]["shown"], N_ITEMS))
    for row, action in enumerate(batch[Columns.ACTIONS]):
        own = vectors.items[recommended[row]]
        expected = own / own.abs().max() if action[-1] > 0 else action[:-1]
        torch.testing.assert_close(read[row], expected)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("state", "critic_reads", "discount", "share"),
    [("p", "item", 0.0, 0.8), ("u", "item", 0.0, 0.8), ("ave", "item", 0.0, 0.8), ("ave", "vector", 0.5, 0.5)],
)
def test_a_small_task_is_solved(world, vectors, state, critic_reads, discount, share):
    """Users and items do not match at first, so the agent has to find out how they do.

    `share` is that of the way from chance to the optimum; the paper's critic, which reads ranking vectors, is slower.
    """
    users = np.repeat(world.users, 5)
    oracle = play(world, by_world, users, seed=0).reward_per_step.mean()
    random = play(world, at_random(np.random.default_rng(0)), users, seed=0).reward_per_step.mean()
    config = DRRTrainConfig(
        network=NETWORK.model_copy(update={"state": state}),
        critic_reads=critic_reads,
        discount=discount,
        actor_learning_rate=1e-3,
        critic_learning_rate=3e-3,
        sessions=20,
        training_intensity=4,
        warmup_steps=500,
        final_epsilon=0.2,
        exploration_steps=8000,
        total_steps=6000,
        steps_per_report=6000,
    )
    *_, (_, module) = training(world, vectors, config)
    reward = play(world, by_actor(module.actor), users, seed=0).reward_per_step.mean()
    assert reward > random + share * (oracle - random)


def settings_of(vectors, config):
    return {
        "config": config,
        "user_vectors": vectors.users,
        "item_vectors": vectors.items,
        "epsilon": [(0, 1.0), (10, 0.1)],
    }


def batch_of(n):
    generator = torch.Generator().manual_seed(0)

    def whole(high, *shape):
        return torch.randint(high, shape, generator=generator)

    user = whole(N_USERS, n)
    shown = torch.full((n, 5), N_ITEMS)
    seen = {"user": user, "history": whole(N_ITEMS + 1, n, HISTORY), "shown": shown}
    shown = torch.cat([whole(N_ITEMS, n, 2), shown[:, 2:]], dim=1)
    seen_next = {"user": user, "history": whole(N_ITEMS + 1, n, HISTORY), "shown": shown}
    action = torch.rand(n, K + 1, generator=generator) * 2 - 1
    action[:, -1] = (torch.arange(n) % 2).float()
    return {Columns.OBS: seen, Columns.NEXT_OBS: seen_next, Columns.ACTIONS: action}
