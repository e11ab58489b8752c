import math
from itertools import product

import pytest
import torch
from torch import Tensor

from rec.errors import SupportError
from rec.losses import ips, two_stage_ips

EXACT = {
    "duplicates": "keep",
    "slate_temperature": 1.0,
    "alpha": 1.0,
    "min_weight": 0.0,
    "max_weight": math.inf,
    "self_normalize": False,
}


def _log(n: int = 6, n_items: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits, ranker = torch.randn(2, n, n_items, generator=generator, dtype=torch.float64)
    actions = torch.randint(n_items, (n,), generator=generator)
    propensities = 0.1 + 0.8 * torch.rand(n, generator=generator, dtype=torch.float64)
    rewards = torch.randn(n, generator=generator, dtype=torch.float64)
    return logits, actions, propensities, ranker, rewards


def _two_stage_p(logits: Tensor, ranker: Tensor, actions: Tensor, slate_size: int) -> Tensor:
    """The probability that slate_size draws from the generator and one of the ranker among them end in the action."""
    p = logits.softmax(1)
    found = torch.zeros(len(logits), dtype=logits.dtype)
    for slate in product(range(logits.shape[1]), repeat=slate_size):
        drawn = torch.tensor(slate)
        chosen = ranker[:, drawn].softmax(1) * (drawn == actions[:, None])
        found = found + p[:, drawn].prod(1) * chosen.sum(1)
    return found


def test_the_gradient_is_that_of_the_two_stage_policy_by_enumeration():
    logits, actions, propensities, ranker, rewards = _log()
    exact = logits.clone().requires_grad_()
    (rewards * _two_stage_p(exact, ranker, actions, 3) / propensities).mean().backward()
    sampled = logits.clone().requires_grad_()
    two_stage_ips(
        sampled,
        actions,
        propensities,
        ranker,
        rewards=rewards,
        slate_size=3,
        n_slates=100_000,
        generator=torch.Generator().manual_seed(0),
        **EXACT,
    ).backward()
    assert torch.cosine_similarity(-sampled.grad.flatten(), exact.grad.flatten(), dim=0) > 0.9999
    assert (-3 * sampled.grad - exact.grad).norm() < 0.02 * exact.grad.norm()


def test_enumerated_probabilities_are_a_distribution():
    logits, _, _, ranker, _ = _log()
    total = sum(_two_stage_p(logits, ranker, torch.full((6,), item), 3) for item in range(5))
    torch.testing.assert_close(total, torch.ones(6).double())


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_slate_of_one_is_ips(duplicates):
    logits, actions, propensities, ranker, rewards = _log()
    found = two_stage_ips(
        logits, actions, propensities, ranker, rewards=rewards.abs(), slate_size=1, duplicates=duplicates
    )
    torch.testing.assert_close(found, ips(logits, actions, propensities, rewards=rewards.abs()))


def test_a_ranker_that_always_picks_the_action_leaves_ips():
    logits, actions, propensities, _, _ = _log()
    ranker = torch.full_like(logits, -200.0).scatter(1, actions[:, None], 200.0)
    found = two_stage_ips(logits, actions, propensities, ranker, alpha=0)
    torch.testing.assert_close(found, ips(logits, actions, propensities))


def test_with_duplicates_dropped_a_long_slate_holds_the_whole_catalogue():
    # All five items are in every slate: q is the ranker's softmax, and the sum is over the four others.
    logits, actions, propensities, ranker, _ = _log()
    found = two_stage_ips(
        logits, actions, propensities, ranker, slate_size=2000, n_slates=2, alpha=0.5, self_normalize=False
    )
    log_p = logits.log_softmax(1)
    at = torch.arange(6), actions
    weights = (log_p.exp()[at] / propensities).clamp(0.01, 10)
    expected = weights * ranker.softmax(1)[at] * (log_p[at] + 0.5 * (log_p.sum(1) - log_p[at]))
    torch.testing.assert_close(found, -expected.mean())


def test_slates_are_drawn_by_the_logits_over_the_slate_temperature():
    # Close to 0 it leaves the likeliest item alone, three times.
    logits, actions, propensities, ranker, _ = _log()
    options = {"alpha": 0.5, "duplicates": "keep", "slate_size": 4, "n_slates": 2, "self_normalize": False}
    found = two_stage_ips(logits, actions, propensities, ranker, slate_temperature=1e-6, **options)
    log_p, mass, best = logits.log_softmax(1), ranker.exp(), logits.argmax(1)
    rows = torch.arange(6)
    own = mass[rows, actions]
    weights = (log_p[rows, actions].exp() / propensities).clamp(0.01, 10)
    share = own / (own + 3 * mass[rows, best])
    expected = weights * share * (log_p[rows, actions] + 0.5 * 3 * log_p[rows, best])
    torch.testing.assert_close(found, -expected.mean())


def test_rows_without_a_reward_leave_the_others_as_they_are():
    logits, actions, propensities, ranker, rewards = _log()
    rewards = rewards.abs() * torch.tensor([1, 0, 1, 1, 0, 0])
    clicked = rewards > 0
    uniforms = torch.rand(6, 20, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for rows in (slice(None), clicked):
        moved = logits.clone().requires_grad_()
        given = moved[rows], actions[rows], propensities[rows], ranker[rows]
        options = {"rewards": rewards[rows], "uniforms": uniforms[rows], "n_slates": 20, "slate_size": 4}
        loss = two_stage_ips(*given, **options)
        (loss * len(rewards[rows])).backward()
        gradients.append(moved.grad)
    torch.testing.assert_close(*gradients)
    assert (gradients[0][~clicked] == 0).all() and (gradients[0][clicked] != 0).any(1).all()


def test_a_batch_without_any_reward_teaches_nothing():
    logits, actions, propensities, ranker, rewards = _log()
    loss = two_stage_ips(logits.requires_grad_(), actions, propensities, ranker, rewards=0 * rewards)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_draws_repeat_with_the_generator_and_follow_the_uniforms():
    logits, actions, propensities, ranker, _ = _log()

    def loss(**options) -> float:
        return two_stage_ips(logits, actions, propensities, ranker, n_slates=3, slate_size=3, **options).item()

    first, again, other = (loss(generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first == again != other
    uniforms = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(0))
    assert loss(uniforms=uniforms) == first


def test_gradients_reach_the_generator_alone():
    logits, actions, propensities, ranker, _ = _log()
    two_stage_ips(logits.requires_grad_(), actions, propensities, ranker.requires_grad_()).backward()
    assert ranker.grad is None and logits.grad is not None
    # A softmax's gradient sums to zero in every row.
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(6).double())


def test_items_that_cannot_be_shown_have_no_gradient():
    logits, actions, propensities, ranker, _ = _log()
    blocked = (actions + 1) % 5
    masked = logits.scatter(1, blocked[:, None], -math.inf).requires_grad_()
    loss = two_stage_ips(masked, actions, propensities, ranker)
    loss.backward()
    assert loss.isfinite() and masked.grad.isfinite().all()
    assert (masked.grad.gather(1, blocked[:, None]) == 0).all()


def test_the_worst_reward_with_a_floor_is_refused():
    logits, actions, propensities, ranker, rewards = _log()
    with pytest.raises(ValueError, match=r"diverge with min_weight 0\.01"):
        two_stage_ips(logits, actions, propensities, ranker, rewards=rewards)
    assert two_stage_ips(logits, actions, propensities, ranker, rewards=rewards, min_weight=0).isfinite()


def test_wrong_arguments_say_what_is_required():
    logits, actions, propensities, ranker, _ = _log()
    with pytest.raises(ValueError, match=r"ranker_logits must have shape \(6, 5\); found \(6, 4\)"):
        two_stage_ips(logits, actions, propensities, ranker[:, 1:])
    with pytest.raises(ValueError, match="n_slates and slate_size must be at least 1; found 100 and 0"):
        two_stage_ips(logits, actions, propensities, ranker, slate_size=0)
    with pytest.raises(ValueError, match=r"uniforms must have shape \(6, 100, 29\)"):
        two_stage_ips(logits, actions, propensities, ranker, uniforms=torch.rand(6, 100, 30))
    with pytest.raises(SupportError, match="row 0"):
        two_stage_ips(logits, actions, 0 * propensities, ranker)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"duplicates": "dropp"}, "duplicates must be"),
        ({"slate_temperature": 0.0}, "slate_temperature must be above 0"),
        ({"slate_temperature": -1.0}, "slate_temperature must be above 0"),
        ({"slate_temperature": math.inf}, "slate_temperature must be above 0"),
        ({"alpha": math.nan}, "alpha must be at least 0"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"alpha": math.inf}, "alpha must be at least 0"),
        ({"n_slates": 0}, "n_slates and slate_size must be at least 1; found 0"),
        ({"uniforms": torch.ones(1, 100, 29)}, "uniforms must lie in"),
        ({"uniforms": torch.full((1, 100, 29), -0.1)}, "uniforms must lie in"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        two_stage_ips(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1), torch.zeros(1, 3), **wrong)


def test_slates_are_drawn_at_the_temperature_e_unless_another_is_given():
    logits, actions, propensities, ranker, _ = _log()
    uniforms = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0))
    options = {"uniforms": uniforms, "n_slates": 3, "slate_size": 5}
    default = two_stage_ips(logits, actions, propensities, ranker, **options)
    assert default == two_stage_ips(logits, actions, propensities, ranker, slate_temperature=math.e, **options)
    assert default != two_stage_ips(logits, actions, propensities, ranker, slate_temperature=2.0, **options)


def test_a_ranker_without_numbers_is_refused():
    ranker = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]])
    with pytest.raises(ValueError, match=r"ranker_logits must be finite.*row 1"):
        two_stage_ips(torch.zeros(2, 3), torch.tensor([0, 0]), torch.ones(2), ranker)
