import math
from functools import partial

import pytest
import torch
from torch import Tensor

from rec.losses import ips, sampled_ips, sampled_two_stage_ips, two_stage_ips
from rec.losses.sampled import first_column
from rec.proposals import Proposal

N_ITEMS, SIZE, TEMPERATURE = 40, 3, 0.7
PLAIN = {"min_weight": 0.0, "max_weight": math.inf, "self_normalize": False}
SLATES = {"n_slates": 4, "slate_size": 6, "alpha": 0.3, "slate_temperature": 1.5}


class World:
    """Three users with a logged action each, repeated so often that a mean over rows is an expectation over draws."""

    def __init__(self, repeats: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.items, self.users = (torch.randn(n, SIZE, generator=generator, dtype=torch.float64) for n in (N_ITEMS, 3))
        self.ranker = torch.randn(3, N_ITEMS, generator=generator, dtype=torch.float64).repeat(repeats, 1)
        # The first user's action is among the neighbours, the others' are not.
        scores = self.users @ self.items.T / TEMPERATURE
        self.neighbors = scores.topk(10).indices
        self.actions = torch.stack([self.neighbors[0, 2], *scores[1:].argsort(1)[:, 20]]).repeat(repeats)
        self.propensities = torch.tensor([0.2, 0.05, 0.4], dtype=torch.float64).repeat(repeats)
        self.rewards = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64).repeat(repeats)
        self.repeats = repeats
        proposed = scores.gather(1, self.neighbors) + 0.5 * torch.randn(3, 10, generator=generator)
        self.proposal = Proposal.of(
            self.neighbors.repeat(repeats, 1), proposed.repeat(repeats, 1), n_items=N_ITEMS, uniform_share=0.3
        )

    def gradient(self, loss) -> Tensor:
        """Of the item embeddings, by a loss of them and the users' (B, D)."""
        items = self.items.clone().requires_grad_()
        loss(items, self.users.repeat(self.repeats, 1)).backward()
        return items.grad

    def full(self, loss, **options) -> Tensor:
        return self.gradient(
            lambda items, users: loss(
                users @ items.T / TEMPERATURE, self.actions, self.propensities, rewards=self.rewards, **options
            )
        )

    def sampled(self, loss, n_draws: int, seed: int, *ranker, **options) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(self.actions), n_draws, generator=generator, dtype=torch.float64)
        draws = self.proposal.draw(uniforms)
        return self.gradient(
            lambda items, users: loss(
                users,
                items.__getitem__,
                self.actions,
                self.propensities,
                *draws,
                *ranker,
                temperature=TEMPERATURE,
                rewards=self.rewards,
                **options,
            )
        )


def _mean_and_error(gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    found = torch.stack(gradients)
    return found.mean(0), found.std(0) / math.sqrt(len(found))


def _bias(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def test_its_gradient_is_that_of_full_logits_with_a_bias_that_falls_with_the_draws():
    truth = World(1).full(ips, **PLAIN)
    world = World(400)
    few, some, many = (
        _mean_and_error([world.sampled(sampled_ips, n, seed, **PLAIN) for seed in range(12)]) for n in (4, 16, 256)
    )
    assert _bias(few[0], truth) > 2 * _bias(some[0], truth) > 2 * _bias(many[0], truth)
    assert _bias(many[0], truth) < 0.01
    assert ((many[0] - truth).abs() <= 4.5 * many[1] + 0.003 * truth.norm()).all()


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_its_slates_teach_what_those_of_full_logits_do(duplicates):
    world = World(400)
    options = {**PLAIN, **SLATES, "duplicates": duplicates}

    def full(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return world.full(
            lambda *given, **more: two_stage_ips(*given, world.ranker, generator=generator, **more), **options
        )

    def sampled(n_draws: int) -> tuple[Tensor, Tensor]:
        def once(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(1000 + seed)
            ranker = partial(torch.gather, world.ranker, 1)
            return world.sampled(sampled_two_stage_ips, n_draws, seed, ranker, generator=generator, **options)

        return _mean_and_error([once(seed) for seed in range(8)])

    truth, truth_error = _mean_and_error([full(seed) for seed in range(8)])
    few, many = sampled(8), sampled(256)
    assert _bias(few[0], truth) > 3 * _bias(many[0], truth)
    error = (many[1] ** 2 + truth_error**2).sqrt()
    assert ((many[0] - truth).abs() <= 4.5 * error + 0.003 * truth.norm()).all()


def test_with_the_whole_catalogue_drawn_evenly_it_is_exact():
    world = World(1)
    draws = torch.arange(N_ITEMS).expand(3, N_ITEMS)
    log_q = torch.full((3, N_ITEMS), -math.log(N_ITEMS)).double()
    given = world.actions, world.propensities
    logits = world.users @ world.items.T / TEMPERATURE
    found = sampled_ips(world.users, world.items.__getitem__, *given, draws, log_q, temperature=TEMPERATURE)
    torch.testing.assert_close(found, ips(logits, *given))
    # Whatever is drawn, slates so long hold every item once.
    found = sampled_two_stage_ips(
        world.users,
        world.items.__getitem__,
        *given,
        draws,
        log_q,
        partial(torch.gather, world.ranker, 1),
        temperature=TEMPERATURE,
        slate_size=40_000,
        n_slates=1,
    )
    torch.testing.assert_close(found, two_stage_ips(logits, *given, world.ranker, slate_size=40_000, n_slates=1))


def test_what_is_excluded_is_no_part_of_the_policy():
    """As if its logits were minus infinity: with the whole catalogue drawn evenly, exactly."""
    world = World(1)
    draws = torch.arange(N_ITEMS).expand(3, N_ITEMS)
    log_q = torch.full((3, N_ITEMS), -math.log(N_ITEMS)).double()
    given = world.actions, world.propensities
    excluded = (draws % 3 == 0) & (draws != world.actions[:, None])
    logits = world.users @ world.items.T / TEMPERATURE
    closed = logits.masked_fill(excluded, -1e4)
    drawn = world.users, world.items.__getitem__, *given, draws, log_q
    options = {"temperature": TEMPERATURE, "excluded": excluded}
    found = sampled_ips(*drawn, **options, **PLAIN)
    torch.testing.assert_close(found, ips(closed, *given, **PLAIN))
    assert not torch.isclose(found, ips(logits, *given, **PLAIN), rtol=0.01)


def test_slates_hold_nothing_that_is_excluded():
    world = World(1)
    draws = torch.arange(N_ITEMS).expand(3, N_ITEMS)
    log_q = torch.full((3, N_ITEMS), -math.log(N_ITEMS)).double()
    given = world.actions, world.propensities
    excluded = (draws % 3 == 0) & (draws != world.actions[:, None])
    closed = (world.users @ world.items.T / TEMPERATURE).masked_fill(excluded, -1e4)
    drawn = world.users, world.items.__getitem__, *given, draws, log_q, partial(torch.gather, world.ranker, 1)
    options = {**PLAIN, "slate_size": 40_000, "n_slates": 1, "alpha": 0.3}
    found = sampled_two_stage_ips(*drawn, temperature=TEMPERATURE, excluded=excluded, **options)
    torch.testing.assert_close(found, two_stage_ips(closed, *given, world.ranker, **options))


def test_rows_without_a_reward_leave_the_slates_of_the_others_as_they_are():
    world = World(2)
    rewards = torch.tensor([0, 1, 2, 0, 0.5, 0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws, log_q = world.proposal.draw(torch.rand(6, 12, generator=generator, dtype=torch.float64))
    uniforms = torch.rand(6, 4, 5, generator=generator, dtype=torch.float64)
    gradients = []
    for rows in (torch.arange(6), rewards.nonzero()[:, 0]):
        items = world.items.clone().requires_grad_()
        given = world.users[rows % 3], items.__getitem__, world.actions[rows], world.propensities[rows]
        ranker = partial(torch.gather, world.ranker[rows], 1)
        options = {"rewards": rewards[rows], "uniforms": uniforms[rows], "temperature": TEMPERATURE, **SLATES}
        loss = sampled_two_stage_ips(*given, draws[rows], log_q[rows], ranker, **options)
        (loss * len(rows)).backward()
        gradients.append(items.grad)
    torch.testing.assert_close(*gradients)


def test_no_action_is_more_likely_than_certain():
    world = World(50)
    draws, log_q = world.proposal.draw(torch.rand(150, 2, generator=torch.Generator().manual_seed(0)))
    # With propensity 1 the weight is p(a) itself, at most 1 however few draws there are: the loss is at most 1 / e.
    certain = torch.ones_like(world.propensities)
    loss = sampled_ips(
        4 * world.users.repeat(50, 1), world.items.__getitem__, world.actions, certain, draws, log_q, **PLAIN
    )
    assert 0 <= loss <= 1 / math.e


def test_first_column_is_the_first_place_of_an_item():
    ids = torch.tensor([[7, 3, 7, 3, 1], [2, 2, 2, 0, 1]])
    assert first_column(ids).tolist() == [[0, 1, 0, 1, 4], [0, 0, 0, 3, 4]]


def test_wrong_arguments_say_what_is_required():
    world = World(1)
    given = world.users, world.items.__getitem__, world.actions, world.propensities
    draws = torch.zeros(3, 5, dtype=torch.int64)
    log_q = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"log_q must have shape \(3, 5\); found \(3, 4\)"):
        sampled_ips(*given, draws, log_q[:, 1:])
    log_q[1, 2] = -math.inf
    with pytest.raises(ValueError, match=r"log_q must be finite.*first row 1"):
        sampled_ips(*given, draws, log_q)
    with pytest.raises(ValueError, match=r"embeddings must have shape \(3, 6, 3\); found \(3, 6, 2\)"):
        sampled_ips(world.users, lambda ids: world.items[ids][..., 1:], *given[2:], draws, torch.zeros(3, 5))
