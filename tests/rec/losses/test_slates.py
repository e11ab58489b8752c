import math

import pytest
import torch
from torch import Tensor

from rec.losses.slates import draw, slate_objective, whole_tensor_objective


def _whole_tensor(
    log_p: Tensor, draw_logits: Tensor, ranker_logits: Tensor, actions: Tensor, uniforms: Tensor, **given
):
    lead = ranker_logits - ranker_logits.gather(1, actions[:, None])
    return whole_tensor_objective(log_p, draw_logits.softmax(1), lead, actions, uniforms, **given)


BOTH = pytest.mark.parametrize("objective", [slate_objective, _whole_tensor])


def _uniforms(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _world(n_rows: int, n_items: int, dtype: torch.dtype = torch.float64, spread: float = 2.0):
    generator = torch.Generator().manual_seed(2)
    logits, ranker = torch.randn(2, n_rows, n_items, generator=generator, dtype=dtype) * spread
    return logits, ranker, torch.randint(n_items, (n_rows,), generator=generator)


@BOTH
@pytest.mark.parametrize("drop", [True, False])
def test_the_objective_and_its_gradient_are_those_of_a_loop_over_slates(objective, drop):
    logits, ranker, actions = _world(4, 7)
    uniforms = _uniforms(4, 11, 5)
    log_p = logits.log_softmax(1).requires_grad_()
    first = torch.arange(7)[None] if drop else None
    found = objective(log_p, logits, ranker, actions, uniforms, alpha=0.3, first=first)
    (found * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
    slates = draw(logits.softmax(1), uniforms).tolist()
    for row, (action, weight) in enumerate(zip(actions.tolist(), (1, -2, 0.5, 3), strict=True)):
        total, gradient = 0.0, torch.zeros(7, dtype=torch.float64)
        for slate in slates[row]:
            beside = [item for item in dict.fromkeys(slate) if item != action] if drop else slate
            mass = sum(math.exp(ranker[row, item]) for item in [action, *beside])
            share = math.exp(ranker[row, action]) / mass
            total += share * (log_p[row, action].item() + 0.3 * sum(log_p[row, item].item() for item in beside)) / 11
            gradient[action] += share / 11
            for item in beside:
                gradient[item] += 0.3 * share / 11
        assert found[row].item() == pytest.approx(total)
        torch.testing.assert_close(log_p.grad[row], weight * gradient)


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("spread", [0, 1, 5, 20])
def test_the_compiled_loop_finds_what_whole_tensors_find(spread, drop):
    logits, ranker, actions = _world(5, 700, spread=spread)
    logits[1, 100:400] = -math.inf
    actions[1] = 3
    first = torch.arange(700)[None] if drop else None
    results = []
    for objective in (slate_objective, _whole_tensor):
        log_p = logits.log_softmax(1).requires_grad_()
        found = objective(log_p, logits, ranker, actions, _uniforms(5, 40, 9), alpha=0.1, first=first)
        found.sum().backward()
        results.append((found.detach(), log_p.grad))
    torch.testing.assert_close(*results)


def _drawn(objective, logits: Tensor, uniforms: Tensor) -> Tensor:
    """How often each column was drawn: with alpha 1, and a ranker that sees the action alone, that is the gradient."""
    log_p = torch.zeros_like(logits).requires_grad_()
    actions = torch.zeros(len(logits), dtype=torch.int64)
    ranker = torch.full_like(logits, -1e4).index_fill(1, torch.tensor([0]), 0)
    options = {"alpha": 1.0, "first": None}
    objective(log_p, logits, ranker, actions, uniforms, **options).sum().backward()
    counts = log_p.grad * uniforms.shape[1]
    counts[:, 0] -= uniforms.shape[1]
    return counts


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_softmaxs_frequencies(objective, dtype):
    # Column 0 is the action; as the others do not rank beside it, it is never drawn here.
    rows = [[2.0, 0, -1, 0.5, -math.inf], [0, 0, 0, 0, 0], [-40, 0, 1, 60, 2]]
    logits = torch.cat([torch.full((3, 1), -math.inf), torch.tensor(rows)], dim=1).to(dtype)
    counts = _drawn(objective, logits, _uniforms(3, 2000, 20).to(dtype))
    torch.testing.assert_close(counts.sum(1), torch.full((3,), 40_000.0, dtype=dtype), rtol=1e-3, atol=0)
    p = logits.softmax(1)
    error = (p * (1 - p) / 40_000).sqrt()
    assert ((counts / 40_000 - p).abs() <= 4 * error + 1e-3).all()


def test_draws_of_a_slate_are_independent():
    drawn = draw(torch.tensor([[3.0, 1, 0.5, 2]]), _uniforms(1, 60_000, 2))[0]
    p = torch.tensor([3.0, 1, 0.5, 2]).double() / 6.5
    found = torch.zeros(4, 4).double().index_put((drawn[:, 0], drawn[:, 1]), torch.tensor(1 / 60_000).double(), True)
    pairs = torch.outer(p, p)
    assert ((found - pairs).abs() <= 4 * (pairs * (1 - pairs) / 60_000).sqrt()).all()


@BOTH
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_what_has_no_weight_is_never_drawn(objective, uniform):
    logits = torch.tensor([[-math.inf, -math.inf, 0.0, -math.inf]])
    counts = _drawn(objective, logits, torch.full((1, 5, 2), uniform))
    torch.testing.assert_close(counts, torch.tensor([[0.0, 0, 10, 0]]))


@BOTH
def test_several_columns_of_one_item_count_once(objective):
    # Columns 1 and 2 are one item, 0 and 4 another, which is the action.
    logits, ranker, actions = _world(1, 5)
    first = torch.tensor([[0, 1, 1, 3, 0]])
    ranker, log_p = ranker[:, first[0]], logits.log_softmax(1)[:, first[0]]
    merged = torch.stack([logits[0, [0, 4]].logsumexp(0), logits[0, [1, 2]].logsumexp(0), logits[0, 3]])[None]
    given = {"alpha": 0.5, "uniforms": _uniforms(1, 40_000, 3)}
    found = objective(log_p, logits, ranker, actions * 0, **given, first=first)
    same = objective(
        log_p[:, [0, 1, 3]], merged, ranker[:, [0, 1, 3]], actions * 0, **given, first=torch.arange(3)[None]
    )
    torch.testing.assert_close(found, same, rtol=0.01, atol=0)


@BOTH
def test_a_ranker_of_any_range_gives_finite_shares(objective):
    logits = torch.zeros(2, 3, requires_grad=True)
    ranker = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    given = logits.log_softmax(1), logits.detach(), ranker, torch.tensor([0, 0]), _uniforms(2, 50, 4)
    found = objective(*given, alpha=1, first=torch.arange(3)[None])
    found.sum().backward()
    assert found.isfinite().all() and logits.grad.isfinite().all()
    # The ranker always puts the first action on top, the second one only where nothing else was drawn.
    assert found[0] < math.log(1 / 3) < 10 * found[1]


@BOTH
def test_logits_that_are_no_numbers_give_no_number(objective):
    logits, ranker, actions = _world(2, 50)
    logits[1, 7] = math.nan
    found = objective(logits.log_softmax(1), logits, ranker, actions, _uniforms(2, 3, 4), alpha=1, first=None)
    assert found[0].isfinite() and found[1].isnan()


def test_threads_share_the_rows():
    logits, ranker, actions = _world(7, 60)
    given = logits.log_softmax(1), logits, ranker, actions, _uniforms(7, 5, 3)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 16):
            torch.set_num_threads(n)
            results.append(slate_objective(*given, alpha=1, first=None))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
