import math

import pytest
import torch

from rec.losses.slates import descending_uniforms, draw_slates, inverse_cdf, slate_objective


def _uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_descending_uniforms_are_the_order_statistics_of_independent_ones():
    points = descending_uniforms(_uniforms(40_000, 4))
    assert (points[:, 1:] <= points[:, :-1]).all() and (points > 0).all() and (points <= 1).all()
    # The j-th largest of 4 is Beta(5 - j, j): mean (5 - j) / 5.
    torch.testing.assert_close(points.mean(0), torch.tensor([0.8, 0.6, 0.4, 0.2]).double(), atol=0.004, rtol=0)
    pooled = points.flatten().sort().values
    assert (pooled - (torch.arange(160_000) + 0.5) / 160_000).abs().max() < 1.95 / math.sqrt(160_000)


def test_extreme_uniforms_still_draw_a_column_that_can_be_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    uniforms = torch.tensor([0.0, 1 - 2**-24]).expand(1, 5, 2)
    assert (draw_slates(logits, uniforms) == 1).all()


def test_draws_have_the_softmaxs_frequencies():
    logits = torch.tensor([[2.0, 0, -1, 0.5, -math.inf], [0, 0, 0, 0, 0], [-40, 0, 1, 60, 2]])
    drawn = draw_slates(logits, _uniforms(3, 20_000, 6).float())
    assert (drawn[..., 1:] <= drawn[..., :-1]).all()
    for row, p in zip(drawn, logits.softmax(1), strict=True):
        share = row.flatten().bincount(minlength=5) / row.numel()
        error = (p * (1 - p) / row.numel()).sqrt()
        assert ((share - p).abs() <= 4 * error + 1e-6).all()


def test_draws_of_a_slate_are_independent():
    logits = torch.tensor([[1.0, 0, -1, 0.5]])
    drawn = draw_slates(logits, _uniforms(1, 60_000, 2))[0]
    p = logits.double().softmax(1)[0]
    found = torch.zeros(4, 4).double().index_put((drawn[:, 0], drawn[:, 1]), torch.tensor(1 / 60_000).double(), True)
    pairs = torch.outer(p, p)
    unordered = torch.tril(pairs + pairs.T, -1) + pairs.diag().diag()
    error = (unordered * (1 - unordered) / 60_000).sqrt()
    assert ((found - unordered).abs() <= 4 * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0, 1, 5, 20])
def test_the_compiled_search_finds_what_torch_finds(dtype, spread):
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(1), dtype=dtype) * spread
    logits[1, 100:400] = -math.inf
    cdf = (logits - logits.amax(1, keepdim=True)).exp().cumsum(1)
    points = (_uniforms(3, 3000).to(dtype) * cdf[:, -1:]).clamp(min=1e-30)
    points[:, :700] = cdf.clamp(min=1e-30)
    torch.testing.assert_close(inverse_cdf(cdf, points), torch.searchsorted(cdf, points))


@pytest.mark.parametrize("drop", [True, False])
def test_the_objective_is_that_of_a_loop_over_slates(drop):
    generator = torch.Generator().manual_seed(2)
    logits, ranker = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64) * 2
    actions = torch.tensor([0, 6, 3, 3])
    uniforms = _uniforms(4, 11, 5)
    log_p = logits.log_softmax(1)
    items = torch.arange(7)[None] if drop else None
    found = slate_objective(log_p, logits, ranker, actions, uniforms, alpha=0.3, items=items)
    slates = draw_slates(logits, uniforms).tolist()
    for row, action in enumerate(actions.tolist()):
        total = 0.0
        for slate in slates[row]:
            beside = [item for item in dict.fromkeys(slate) if item != action] if drop else slate
            mass = sum(math.exp(ranker[row, item]) for item in beside)
            share = math.exp(ranker[row, action]) / (math.exp(ranker[row, action]) + mass)
            log_beside = sum(float(log_p[row, item]) for item in beside)
            total += share * (float(log_p[row, action]) + 0.3 * log_beside) / 11
        assert found[row].item() == pytest.approx(total)


def test_a_ranker_of_any_range_gives_finite_shares():
    logits = torch.zeros(2, 3, requires_grad=True)
    ranker = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    objective = slate_objective(
        logits.log_softmax(1),
        logits.detach(),
        ranker,
        torch.tensor([0, 0]),
        _uniforms(2, 50, 4),
        alpha=1,
        items=torch.arange(3)[None],
    )
    objective.sum().backward()
    assert objective.isfinite().all() and logits.grad.isfinite().all()
    # The ranker always puts the first action on top; the second one only where nothing else was drawn.
    assert objective[0] < math.log(1 / 3) < objective[1] + 0.1
