"""DRR's networks: states as the paper's equations say, ranking vectors within bounds, and what none means."""

import numpy as np
import pytest
import torch

from rec.config.drr import DRRNetworkConfig
from rec.errors import ConfigError
from rec.models.drr import DRRActor, DRRCritic, DRRState, balanced, drr_ave, drr_p, drr_u

U, N, K, HISTORY = 7, 11, 4, 3


def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(U, K, generator=generator) - 0.5, torch.randn(N, K, generator=generator)


def config(**options):
    return DRRNetworkConfig(history_length=HISTORY, hidden=16, **options)


def test_states_worked_by_hand():
    """k = 1, n = 2: u = 2, i = (3, 5), w = (1, 2): w i = (3, 10), their product 30, their mean 6.5."""
    user, items, weights = torch.tensor([[2.0]]), torch.tensor([[[3.0], [5.0]]]), torch.tensor([1.0, 2.0])
    assert drr_p(user, items, weights).tolist() == [[3, 5, 30]]
    assert drr_u(user, items, weights).tolist() == [[6, 20, 30]]
    assert drr_ave(user, items, weights).tolist() == [[2, 13, 6.5]]


@pytest.mark.parametrize(("kind", "dim"), [("p", 5 * 100 + 10 * 100), ("u", 5 * 100 + 10 * 100), ("ave", 300)])
def test_dimensions_are_the_papers(kind, dim):
    """n = 5 and k = 100: n k + n (n - 1) / 2 k, twice, and 3 k."""
    state = DRRState(torch.zeros(2, 100), torch.zeros(3, 100), DRRNetworkConfig(state=kind))
    assert state.dim == dim
    assert state(torch.tensor([0, 1]), torch.zeros(2, 5, dtype=torch.long)).shape == (2, dim)


@pytest.mark.parametrize("kind", ["p", "u", "ave"])
def test_who_has_liked_nothing_is_known_by_the_user_alone(kind):
    """Zeros stand for none; only DRR-ave says who the user is then."""
    state = DRRState(*vectors(), config(state=kind))(torch.tensor([2]), torch.full((1, HISTORY), N))
    assert state[0, :K].tolist() == (vectors()[0][2].tolist() if kind == "ave" else [0.0] * K)
    assert not state[0, K:].any()


@pytest.mark.parametrize("kind", ["p", "u", "ave"])
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_the_weights_of_the_positions_learn_from_each_networks_loss(kind, network):
    torch.manual_seed(0)
    user, history = torch.tensor([0, 1]), torch.tensor([[1, 2, 3], [4, 5, 6]])
    if network == "actor":
        net = DRRActor(*vectors(), config(state=kind))
        loss = net(user, history).square().sum()
    else:
        net = DRRCritic(*vectors(), config(state=kind))
        loss = net(user, history, torch.rand(2, K)).square().sum()
    loss.backward()
    gradient = net.state.weights.grad
    assert gradient is not None and (gradient != 0).all()
    assert {name for name, _ in net.named_parameters()}.isdisjoint({"state.users", "state.items"})


def test_actions_lie_within_bounds_and_values_are_one_number_each():
    torch.manual_seed(0)
    user, history = torch.arange(U), torch.arange(U * HISTORY).reshape(U, HISTORY) % (N + 1)
    action = DRRActor(*vectors(), config())(user, history)
    assert action.shape == (U, K) and action.abs().max() < 1
    assert DRRCritic(*vectors(), config())(user, history, action).shape == (U,)


@pytest.mark.parametrize("kind", ["p", "u", "ave"])
def test_an_untrained_actor_that_starts_from_users_ranks_by_their_vectors(kind):
    users, items = vectors()
    actor = DRRActor(users, items, config(state=kind, start="user"))
    torch.testing.assert_close(actor(torch.arange(U), torch.zeros(U, HISTORY, dtype=torch.long)), users)


def test_weights_of_the_user_the_bias_and_the_average_make_the_action_and_its_value():
    """At first the user's vector; the value is linear in the action, along each part by its slope."""
    users, items = vectors()
    user, history = torch.arange(U), torch.arange(U * HISTORY).reshape(U, HISTORY) % (N + 1)
    weighed = config(start="user", correction="weights")
    actor, critic = DRRActor(users, items, weighed), DRRCritic(users, items, weighed)
    torch.testing.assert_close(actor(user, history), users)
    average = torch.cat([items, torch.zeros(1, K)])[history].mean(dim=1)
    actor.part_weights.data = torch.tensor([0.0, 0.5, 2.0])
    expected = torch.cat([2 * average[:, :-1], 0.5 * torch.atanh(users[:, -1:])], dim=1)
    torch.testing.assert_close(torch.atanh(actor(user, history)), expected, rtol=1e-3, atol=1e-3)
    critic.slope.data = torch.tensor([1.0, 3.0, -2.0])
    gained = critic(user, history, items[:U]) - critic(user, history, torch.zeros(U, K))
    wanted = torch.cat([users[:, :-1] - 2 * average[:, :-1], 3 * users[:, -1:]], dim=1)
    torch.testing.assert_close(gained, (wanted * items[:U]).sum(dim=1))


@pytest.mark.parametrize("options", [{"state": "p", "start": "user"}, {"start": "random"}])
def test_weights_without_what_they_weigh_are_refused(options):
    with pytest.raises(ValueError, match="needs state 'ave' and start 'user'"):
        config(correction="weights", **options)


def test_balancing_keeps_products_up_to_a_factor_and_users_within_bounds():
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(U, K)) * [1, 10, 0.1, 0], rng.normal(size=(N, K))
    scaled_users, scaled_items = balanced(users, items)
    assert scaled_users.abs().max() == pytest.approx(0.9)
    np.testing.assert_allclose(scaled_users @ scaled_items.T, 0.9 * users @ items.T, rtol=1e-5, atol=1e-6)


def test_vectors_of_two_lengths_are_refused():
    with pytest.raises(ConfigError, match="found 4 and 3"):
        DRRState(torch.zeros(2, 4), torch.zeros(2, 3), config())
