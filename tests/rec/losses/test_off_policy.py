import itertools
import math

import pytest
import torch
from torch import Tensor

from rec.config import OffPolicyConfig
from rec.errors import SupportError
from rec.losses import dr, ips, regression, top_k_reinforce, weighted_log_likelihood

PLAIN = {"min_weight": 0.0, "max_weight": math.inf, "self_normalize": False}


def _world(seed: int = 0, n_users: int = 4, n_items: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the policy in training, a logging policy, and the expected reward of every item, all (U, N)."""
    generator = torch.Generator().manual_seed(seed)
    logits, logging, rewards = torch.randn(3, n_users, n_items, generator=generator, dtype=torch.float64)
    return logits, logging.softmax(1), rewards


def _every_action(logits: Tensor, logging: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A row for each user and item, and how often the logging policy would write it."""
    users, items = torch.meshgrid(torch.arange(len(logits)), torch.arange(logits.shape[1]), indexing="ij")
    users, items = users.flatten(), items.flatten()
    return users, items, logging[users, items], rewards[users, items], logging[users, items] / len(logits)


def _expected_gradient(loss, world, **options) -> Tensor:
    """The gradient of a loss without self-normalisation, expected over the log that the logging policy writes."""
    logits = world[0].clone().requires_grad_()
    users, actions, propensities, rewards, share = _every_action(*world)
    for row in range(len(users)):
        one = slice(row, row + 1)
        given = {name: value[users[one]] if torch.is_tensor(value) else value for name, value in options.items()}
        part = loss(logits[users[one]], actions[one], propensities[one], rewards=rewards[one], **given)
        (part * share[row]).backward()
    return logits.grad


def _gradient_of(value, logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    value(logits).backward()
    return logits.grad


def test_ips_expects_the_gradient_of_the_policys_value():
    world = _world()
    truth = _gradient_of(lambda logits: (logits.softmax(1) * world[2]).sum(1).mean(), world[0])
    torch.testing.assert_close(_expected_gradient(ips, world, **PLAIN), -truth)


@pytest.mark.parametrize("slate_size", [1, 2, 16])
def test_top_k_expects_the_gradient_of_being_among_k_draws(slate_size):
    world = _world()

    def value(logits: Tensor) -> Tensor:
        return ((1 - (1 - logits.softmax(1)) ** slate_size) * world[2]).sum(1).mean()

    found = _expected_gradient(top_k_reinforce, world, slate_size=slate_size, **PLAIN)
    torch.testing.assert_close(found, -_gradient_of(value, world[0]))


@pytest.mark.parametrize("wrong", ["q_hat", "propensities"])
def test_dr_expects_the_gradient_of_the_value_when_one_of_its_models_is_right(wrong):
    logits, logging, rewards = _world()
    truth = _gradient_of(lambda logits: (logits.softmax(1) * rewards).sum(1).mean(), logits)
    if wrong == "q_hat":
        found = _expected_gradient(dr, (logits, logging, rewards), q_hat=rewards.flip(1) + 1)
    else:
        found = _expected_gradient(_with_wrong_propensities, (logits, logging, rewards), q_hat=rewards)
    torch.testing.assert_close(found, -truth)


def _with_wrong_propensities(logits, actions, propensities, **options):
    return dr(logits, actions, propensities / 3, **options)


def test_the_default_cap_of_the_config_biases_dr_and_without_it_there_is_no_bias():
    """Over all 9 logs of two rounds: how far the expected gradient lies from the value's, by the length of that."""
    logits = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64, requires_grad=True)
    shown = torch.tensor([0.02, 0.08, 0.9], dtype=torch.float64)
    rewards = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    (true,) = torch.autograd.grad((logits.softmax(dim=0) * rewards).sum(), logits)

    def bias(**settings) -> float:
        expected = torch.zeros_like(true)
        for log in itertools.product(range(3), repeat=2):
            actions = torch.tensor(log)
            q_hat = torch.full((2, 3), 0.3, dtype=torch.float64)
            loss = dr(logits.expand(2, 3), actions, shown[actions], rewards[actions], q_hat, **settings)
            expected -= shown[actions].prod() * torch.autograd.grad(loss, logits)[0]
        return float((expected - true).norm() / true.norm())

    default = OffPolicyConfig()
    assert bias(max_weight=1e9, self_normalize=False) < 1e-14
    assert bias(max_weight=default.max_weight, self_normalize=False) == pytest.approx(0.70, abs=0.01)
    assert bias(max_weight=default.max_weight, self_normalize=default.self_normalize) == pytest.approx(0.77, abs=0.01)


def test_dr_with_a_good_model_varies_less_than_ips():
    world = _world()
    users, actions, propensities, rewards, share = _every_action(*world)
    q_hat = world[2][users] + 0.1

    def variance(loss) -> Tensor:
        rows = [slice(row, row + 1) for row in range(len(users))]
        gradients = [_gradient_of(lambda logits, one=one: loss(logits[users[one]], one), world[0]) for one in rows]
        weight = share.view(-1, 1, 1)
        return (weight * (torch.stack(gradients) - (weight * torch.stack(gradients)).sum(0)) ** 2).sum()

    doubly = variance(lambda logits, one: dr(logits, actions[one], propensities[one], rewards[one], q_hat[one]))
    singly = variance(lambda logits, one: ips(logits, actions[one], propensities[one], rewards=rewards[one], **PLAIN))
    assert doubly < 0.5 * singly


@pytest.mark.parametrize("self_normalize", [False, True])
def test_dr_that_expects_nothing_is_ips(self_normalize):
    logits, actions, propensities, rewards = _log()
    options = {"max_weight": 3.0, "self_normalize": self_normalize}
    found = dr(logits, actions, propensities, rewards, torch.zeros_like(logits), **options)
    same = ips(logits, actions, propensities, rewards=rewards, min_weight=0.0, normalize_over="all", **options)
    torch.testing.assert_close(found, same)


def test_q_hat_is_a_constant():
    logits, actions, propensities, rewards = _log()
    q_hat = torch.zeros_like(logits, requires_grad=True)
    dr(logits.requires_grad_(), actions, propensities, rewards, q_hat).backward()
    assert q_hat.grad is None and logits.grad is not None


def _log(n: int = 40, n_items: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, n_items, generator=generator, dtype=torch.float64)
    actions = torch.randint(n_items, (n,), generator=generator)
    propensities = 0.05 + 0.9 * torch.rand(n, generator=generator, dtype=torch.float64)
    rewards = (torch.rand(n, generator=generator) < 0.5).double()
    return logits, actions, propensities, rewards


LOGGED = [ips, top_k_reinforce]


@pytest.mark.parametrize("loss", LOGGED)
def test_normalised_losses_ignore_a_common_factor_of_the_propensities(loss):
    logits, actions, propensities, rewards = _log()
    options = {"rewards": rewards, "min_weight": 0.0, "max_weight": math.inf}
    first = loss(logits, actions, propensities, **options)
    torch.testing.assert_close(first, loss(logits, actions, propensities / 7, **options))
    other = loss(logits, actions, propensities / 7, **options, self_normalize=False)
    assert other.item() == pytest.approx(
        7 * loss(logits, actions, propensities, **options, self_normalize=False).item()
    )


@pytest.mark.parametrize("loss", LOGGED)
def test_what_is_not_clicked_counts_in_the_mean_weight_of_all_rows_alone(loss):
    logits, actions, propensities, rewards = _log()
    clicked = rewards > 0
    alone = loss(logits[clicked], actions[clicked], propensities[clicked])
    among = loss(logits, actions, propensities, rewards=rewards)
    torch.testing.assert_close(among, alone * clicked.double().mean())
    whole = loss(logits, actions, propensities, rewards=rewards, normalize_over="all")
    assert abs(whole.item() - among.item()) > 0.01 * abs(among.item())


def test_clipped_ips_by_hand():
    # p = (3/4, 1/4). Weights 7.5 and 0.5 are kept within [1, 5]: 5 and 1, over their mean 5/3 and 1/3.
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    given = logits, torch.tensor([0, 1]), torch.tensor([0.1, 0.5])
    loss = ips(*given, rewards=torch.tensor([1.0, 2.0]), min_weight=1, max_weight=5)
    assert loss.item() == pytest.approx(-(5 / 3 * math.log(3 / 4) + 2 / 3 * math.log(1 / 4)) / 2)


@pytest.mark.parametrize("loss", LOGGED)
def test_a_reward_below_0_counts_in_the_mean_weight_as_one_above_does(loss):
    logits, actions, propensities, rewards = _log()
    gained, lost = (loss(logits, actions, propensities, rewards=sign * rewards, min_weight=0.0) for sign in (1, -1))
    torch.testing.assert_close(lost, -gained)


def test_the_cap_and_the_mean_are_of_the_weights_without_the_chance_to_be_among_k():
    # p = (3/4, 1/4): weights 7.5, capped at 5, and 1/2, whose mean is 11/4; lambda is 2 (1 - p) = 1/2 and 3/2.
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    given = logits, torch.tensor([0, 1]), torch.tensor([0.1, 0.5])
    loss = top_k_reinforce(*given, slate_size=2, min_weight=0, max_weight=5)
    assert loss.item() == pytest.approx(-(5 / 2 * math.log(3 / 4) + 3 / 4 * math.log(1 / 4)) / (11 / 4) / 2)


def test_the_capped_and_normalised_likelihood_by_hand():
    # Weights (1/2) / (1/10) = 5 and (1/2) / (1/2) = 1; capped at 3 their mean is 2.
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    given = logits, torch.tensor([0, 1]), torch.tensor([0.1, 0.5])
    loss = weighted_log_likelihood(*given, max_weight=3, self_normalize=True)
    assert loss.item() == pytest.approx(-(3 / 2 * math.log(3 / 4) + 1 / 2 * math.log(1 / 4)) / 2)


def test_the_weighted_likelihood_shows_items_in_proportion_to_their_rewards():
    logits, logging, rewards = _world(n_users=1)
    world = logits, logging, rewards.abs()

    def gradient_at(share: Tensor, propensities: bool) -> Tensor:
        def loss(logits, actions, given, rewards):
            return weighted_log_likelihood(logits, actions, given if propensities else None, rewards=rewards)

        return _expected_gradient(loss, ((share / share.sum()).log(), *world[1:]))

    zero = torch.zeros_like(logits)
    torch.testing.assert_close(gradient_at(world[2], True), zero)
    torch.testing.assert_close(gradient_at(world[2] * logging, False), zero)


def test_the_weighted_likelihood_expects_that_of_all_that_could_be_shown_alike():
    """Item 2 of user 0 cannot be shown: there the average is over five of six, and weights have the mean 1."""
    logits, logging, _ = _world(n_users=2)
    eligible = torch.ones_like(logits, dtype=torch.bool)
    eligible[0, 2] = False
    logits = logits.masked_fill(~eligible, -1e4)
    logging = logging * eligible / (logging * eligible).sum(1, keepdim=True)
    users, items = eligible.nonzero().T
    losses = [
        weighted_log_likelihood(logits[one], item[None], logging[one, item[None]], n_eligible=eligible.sum(1)[one])
        for one, item in zip(users[:, None], items, strict=True)
    ]
    found = (torch.stack(losses) * logging[users, items]).sum()
    alike = -(logits.log_softmax(1) * eligible).sum(1) / eligible.sum(1)
    torch.testing.assert_close(found, alike.sum())
    with pytest.raises(ValueError, match=r"at least 1.*row 1: 0"):
        weighted_log_likelihood(logits, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]), n_eligible=torch.tensor([5, 0]))


def test_the_weights_of_a_likelihood_do_not_move_with_the_policy():
    logits, actions, propensities, rewards = _log()
    losses = [
        weighted_log_likelihood(moved, actions, propensities, rewards=rewards)
        / -(rewards / propensities * moved.log_softmax(1).gather(1, actions[:, None])[:, 0]).mean()
        for moved in (logits, 2 * logits)
    ]
    torch.testing.assert_close(losses, [torch.tensor(1 / 6).double()] * 2)


def test_errors_of_predicted_rewards_by_hand():
    # Predicted are 3 and -1, earned 1 and 0.
    given = torch.tensor([[3.0, 9.0], [9.0, -1.0]]), torch.tensor([0, 1]), torch.tensor([1.0, 0.0])
    assert regression(*given).item() == pytest.approx((2**2 + 1**2) / 2)
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(-1))) / 2
    assert regression(*given, error="logistic").item() == pytest.approx(expected)


def test_regression_is_least_at_the_mean_reward():
    actions, rewards = torch.tensor([1, 1, 1]), torch.tensor([0.0, 1.0, 1.0])
    for error, best in (("squared", 2 / 3), ("logistic", math.log(2))):
        logits = torch.tensor([[5.0, best]]).expand(3, 2).clone().requires_grad_()
        regression(logits, actions, rewards, error=error).backward()
        assert logits.grad.sum(0).tolist() == pytest.approx([0, 0], abs=1e-7)


def test_half_precision_is_computed_in_single():
    logits, actions, propensities, rewards = _log()
    half = logits.bfloat16()
    for loss in (ips, top_k_reinforce, weighted_log_likelihood):
        found = loss(half, actions, propensities, rewards=rewards)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(half.float(), actions, propensities, rewards=rewards))


def test_a_worker_without_rows_has_a_part_of_zero():
    logits, actions, propensities, rewards = (values[:0] for values in _log())
    logits.requires_grad_()
    for loss in (ips, top_k_reinforce, weighted_log_likelihood):
        part = loss(logits, actions, propensities, rewards=rewards)
        part.backward()
        assert part.item() == 0


def test_wrong_arguments_say_where_and_what():
    logits, actions, propensities, rewards = _log()
    negative = rewards.clone()
    negative[5] = -1
    with pytest.raises(ValueError, match=r"diverge with min_weight 0\.01.*first row 5: -1"):
        ips(logits, actions, propensities, rewards=negative)
    assert ips(logits, actions, propensities, rewards=negative, min_weight=0).isfinite()
    with pytest.raises(ValueError, match=r"at least 0.*row 5"):
        weighted_log_likelihood(logits, actions, propensities, rewards=negative)
    with pytest.raises(ValueError, match=r"rewards from 0 to 1.*row 5"):
        regression(logits, actions, negative, error="logistic")
    above, below = (torch.zeros_like(rewards).index_fill(0, torch.tensor([5]), wrong) for wrong in (1.001, -0.001))
    with pytest.raises(ValueError, match=r"rewards from 0 to 1.*row 5"):
        regression(logits, actions, above, error="logistic")
    with pytest.raises(ValueError, match="first row 5"):
        ips(logits, actions, propensities, rewards=below)
    with pytest.raises(ValueError, match=r"0 to 5; 40 of 40 rows are wrong, first row 0"):
        ips(logits, actions + 6, propensities)
    with pytest.raises(ValueError, match=r"rewards must be finite"):
        dr(logits, actions, propensities, rewards * math.nan, logits)
    with pytest.raises(ValueError, match=r"q_hat must have shape \(40, 6\); found \(40, 5\)"):
        dr(logits, actions, propensities, rewards, logits[:, 1:])
    with pytest.raises(ValueError, match=r"propensities must have shape \(40,\)"):
        ips(logits, actions, propensities[:3])
    with pytest.raises(ValueError, match="slate_size must be a whole number, at least 1"):
        top_k_reinforce(logits, actions, propensities, slate_size=0)
    with pytest.raises(SupportError, match="row 3"):
        ips(logits, actions, propensities * (torch.arange(40) != 3))


@pytest.mark.parametrize("loss", [ips, top_k_reinforce])
def test_a_misspelt_choice_is_not_the_other_choice(loss):
    with pytest.raises(ValueError, match="normalize_over must be 'clicked' or 'all'; found 'click'"):
        loss(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1), normalize_over="click")
    with pytest.raises(ValueError, match="error must be"):
        regression(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1), error="sqared")


def test_predictions_that_are_no_numbers_and_fractions_of_slates_are_refused():
    row = (torch.zeros(1, 3), torch.tensor([0]), torch.ones(1))
    with pytest.raises(ValueError, match="finite"):
        dr(*row, torch.ones(1), torch.tensor([[0.0, math.nan, 0.0]]))
    with pytest.raises(ValueError, match="whole number"):
        top_k_reinforce(*row, slate_size=2.5)
