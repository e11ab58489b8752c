import math

import pytest
import torch

from rec.proposals import Proposal

NEIGHBORS = torch.tensor([[5, 0, 3], [7, -1, 2], [-1, -1, -1]])
SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, math.inf, 1.0], [0.0, 0.0, 0.0]])
EVERY_ITEM = torch.arange(8).repeat(3, 1)


def _uniforms(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _proposal(scores: torch.Tensor | None = SCORES, uniform_share: float = 0.3, temperature: float = 0.5) -> Proposal:
    return Proposal.of(NEIGHBORS, scores, n_items=8, uniform_share=uniform_share, temperature=temperature)


def test_a_worked_example():
    # Row 0: softmax of (2, 1, 0) / 0.5 for items 5, 0 and 3. Row 1: two neighbours. Row 2: none.
    mass = torch.tensor([math.e**4, math.e**2, 1.0]).double()
    share = 0.7 * mass / mass.sum()
    expected = torch.full((3, 8), 0.3 / 8).double()
    expected[0, [5, 0, 3]] += share
    expected[1, [7, 2]] += 0.7 * torch.tensor([1.0, math.e**2]).double() / (1 + math.e**2)
    expected[2] = 1 / 8
    torch.testing.assert_close(_proposal().log_probability(EVERY_ITEM).exp(), expected)


@pytest.mark.parametrize("uniform_share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("scores", [None, SCORES])
def test_probabilities_add_up_to_one(scores, uniform_share):
    p = _proposal(scores, uniform_share).log_probability(EVERY_ITEM).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(3).double())


def test_items_are_drawn_as_often_as_their_probability_says():
    proposal = _proposal()
    # Many short rows of draws: within one, they are stratified.
    items = torch.cat([proposal.draw(_uniforms(3, seed))[0] for seed in range(3000)], dim=1)
    p = proposal.log_probability(EVERY_ITEM).exp()
    share = torch.stack([row.bincount(minlength=8) for row in items]) / items.shape[1]
    assert ((share - p).abs() <= 4 * (p * (1 - p) / items.shape[1]).sqrt()).all()


def test_the_probability_of_a_draw_comes_with_it():
    proposal = _proposal()
    items, log_q = proposal.draw(_uniforms(50))
    torch.testing.assert_close(log_q, proposal.log_probability(items))


def test_weighted_sums_are_unbiased_and_vary_less_than_independent_draws():
    proposal = _proposal()
    values = torch.arange(8.0).double() ** 2
    estimates = []
    for seed in range(2000):
        items, log_q = proposal.draw(_uniforms(16, seed))
        estimates.append((values[items] / log_q.exp()).mean(1))
    found = torch.stack(estimates)
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - values.sum()).abs() <= 4 * error + 1e-9).all()
    p = proposal.log_probability(EVERY_ITEM).exp()
    independent = ((values**2 / p).sum(1) - values.sum() ** 2) / 16
    assert (found.var(0) < 0.7 * independent).all()


def test_without_any_neighbours_everything_is_as_likely():
    proposal = Proposal.of(torch.empty(3, 0, dtype=torch.int64), n_items=8, uniform_share=0.1)
    items, log_q = proposal.draw(_uniforms(8))
    torch.testing.assert_close(log_q.exp(), torch.full((3, 8), 1 / 8).double())
    # One draw falls into each stratum, and here a stratum is an item.
    assert torch.equal(items, EVERY_ITEM)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_points_at_the_ends_of_a_part_draw_items_that_there_are(uniform):
    """With half the draws uniform, the second of two begins where the neighbours do, of which row 1 has a gap first."""
    items, log_q = _proposal(uniform_share=0.5).draw(torch.full((3, 2), uniform, dtype=torch.float64))
    assert ((items >= 0) & (items < 8)).all() and log_q.isfinite().all()
    assert items[1, 1] in (2, 7) and items[0, 1] in (0, 3, 5)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"uniform_share must be in \(0, 1\]"):
        _proposal(uniform_share=0.0)
    with pytest.raises(ValueError, match="from 0 to 4"):
        Proposal.of(NEIGHBORS, n_items=5, uniform_share=0.5)
    for beyond in (5, -2):
        with pytest.raises(ValueError, match="from 0 to 4"):
            Proposal.of(torch.tensor([[1, beyond]]), n_items=5, uniform_share=0.5)
    with pytest.raises(ValueError, match="distinct"):
        Proposal.of(torch.tensor([[1, 1]]), n_items=5, uniform_share=0.5)


def test_scores_that_are_no_numbers_and_temperatures_of_nothing_are_refused():
    neighbors = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="finite"):
        Proposal.of(neighbors, torch.tensor([[0.0, float("nan")]]), n_items=3, uniform_share=0.5)
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            Proposal.of(neighbors, torch.zeros(1, 2), n_items=3, uniform_share=0.5, temperature=temperature)
