import math

import pytest
import torch
from torch.nn import functional

from rec.losses import cross_entropy, logq_softmax, mixed_log_q, mixed_negative, pooled_log_q


def _embeddings(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=1).float()


def test_uniform_q_makes_logq_a_plain_softmax():
    users, items = _embeddings(16, 0), _embeddings(16, 1)
    uniform = torch.full((16,), -math.log(100))
    loss = logq_softmax(users, items, torch.arange(16), uniform, temperature=0.1)
    plain = functional.cross_entropy(users @ items.T / 0.1, torch.arange(16))
    torch.testing.assert_close(loss, plain)


def test_a_worked_example():
    # Users and items are the unit vectors, temperature 1, q = (1/2, 1/4). Row 0: logits 1 - ln(1/2) and 0 - ln(1/4),
    # so exp gives 2e and 4: loss -ln(2e / (2e + 4)). Row 1: exp gives 2 and 4e: loss -ln(4e / (4e + 2)).
    eye = torch.eye(2)
    losses = logq_softmax(eye, eye, torch.arange(2), torch.tensor([0.5, 0.25]).log(), temperature=1, reduction="none")
    expected = [-math.log(2 * math.e / (2 * math.e + 4)), -math.log(4 * math.e / (4 * math.e + 2))]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_a_row_that_holds_the_same_item_is_no_negative():
    users, items = _embeddings(3, 0), _embeddings(3, 1)
    items[2] = items[0]
    log_q = torch.tensor([0.5, 0.2, 0.5]).log()
    losses = logq_softmax(users, items, torch.tensor([7, 8, 7]), log_q, reduction="none")
    alone = logq_softmax(users[:2], items[:2], torch.tensor([7, 8]), log_q[:2], reduction="none")
    torch.testing.assert_close(losses[0], alone[0])


def test_inputs_are_left_as_they_were():
    users, items, log_q = _embeddings(4, 0), _embeddings(4, 1), torch.rand(4).log()
    before = [tensor.clone() for tensor in (users, items, log_q)]
    logq_softmax(users, items, torch.arange(4), log_q)
    for tensor, copy in zip((users, items, log_q), before, strict=True):
        assert torch.equal(tensor, copy)


def test_excluded_candidates_have_no_influence():
    users, items = _embeddings(4, 0), _embeddings(6, 1)
    excluded = torch.zeros(4, 6, dtype=torch.bool)
    excluded[:, 5] = True
    log_q = torch.rand(6).log()
    loss = logq_softmax(users, items, torch.arange(6), log_q, excluded=excluded)
    torch.testing.assert_close(loss, logq_softmax(users, items[:5], torch.arange(5), log_q[:5]))


def test_unique_columns_with_draw_counts_equal_repeated_columns():
    users, unique = _embeddings(5, 0), _embeddings(3, 1)
    column = torch.tensor([0, 1, 2, 1, 1])
    log_q = torch.rand(3).log()
    repeated = logq_softmax(users, unique[column], column, log_q[column], reduction="none")
    counted = logq_softmax(
        users, unique, torch.arange(3), log_q, positives=column, draws=torch.bincount(column), reduction="none"
    )
    torch.testing.assert_close(repeated, counted)


def test_each_of_several_positives_competes_with_the_negatives_alone():
    users, items = _embeddings(2, 0), _embeddings(6, 1)
    log_q = torch.rand(6).log()
    positives = torch.tensor([[0, 1], [2, 3]])
    losses = logq_softmax(users, items, torch.arange(6), log_q, positives=positives, reduction="none")
    excluded = torch.zeros(2, 6, dtype=torch.bool).scatter(1, positives, True)
    for place in range(2):
        one = logq_softmax(
            users,
            items,
            torch.arange(6),
            log_q,
            positives=positives[:, place],
            excluded=excluded,
            reduction="none",
        )
        torch.testing.assert_close(losses[:, place], one)


def test_mixed_q_is_a_distribution_and_reduces_to_its_parts():
    log_q = torch.tensor([0.7, 0.2, 0.1, 0.0]).log()
    mixed = mixed_log_q(log_q, n_batch=30, n_uniform=10, n_items=4)
    torch.testing.assert_close(mixed.exp(), (30 * log_q.exp() + 10 / 4) / 40)
    torch.testing.assert_close(mixed_log_q(log_q, n_batch=30, n_uniform=0, n_items=4), log_q)
    assert mixed.exp().sum().item() == pytest.approx(1)


def test_cross_entropy_is_against_what_is_neither_excluded_nor_another_positive():
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    positives = torch.tensor([[0, 3], [5, 6]])
    excluded = torch.zeros(2, 7, dtype=torch.bool).index_fill(1, torch.tensor([1]), True)
    losses = cross_entropy(logits, positives, excluded=excluded, reduction="none")
    negatives = torch.stack([logits[0, [2, 4, 5, 6]], logits[1, [0, 2, 3, 4]]])
    for place in range(2):
        own = logits.gather(1, positives[:, place : place + 1])
        expected = torch.cat([own, negatives], dim=1).logsumexp(dim=1) - own[:, 0]
        torch.testing.assert_close(losses[:, place], expected)
        one = cross_entropy(
            logits, positives[:, place], excluded=excluded.scatter(1, positives, True), reduction="none"
        )
        torch.testing.assert_close(one, expected)


def test_what_is_not_drawn_from_the_batch_is_drawn_uniformly():
    """Of six columns the last two are uniform; so are two of six draws of three columns."""
    users, items = _embeddings(4, 0), _embeddings(6, 1)
    log_q, ids = torch.rand(6, generator=torch.Generator().manual_seed(2)).log(), torch.arange(6)
    found = mixed_negative(users, items, ids, log_q, n_batch=4, n_items=10)
    q = mixed_log_q(log_q, n_batch=4, n_uniform=2, n_items=10)
    torch.testing.assert_close(found, logq_softmax(users, items, ids, q))
    counted = {"positives": torch.tensor([0, 1, 2, 0]), "draws": torch.tensor([3, 2, 1])}
    given = users, items[:3], ids[:3]
    found = mixed_negative(*given, log_q[:3], n_batch=4, n_items=10, **counted)
    torch.testing.assert_close(found, logq_softmax(*given, q[:3], **counted))


def test_mixed_negatives_without_any_are_the_in_batch_softmax():
    users, items, log_q = _embeddings(4, 0), _embeddings(4, 1), torch.rand(4).log()
    mixed = mixed_negative(users, items, torch.arange(4), log_q, n_batch=4, n_items=100)
    torch.testing.assert_close(mixed, logq_softmax(users, items, torch.arange(4), log_q))


def test_draws_of_all_rows_and_of_the_rows_pool_have_a_distribution_that_reduces_to_the_common_one():
    q = torch.tensor([0.7, 0.2, 0.1, 0.0])
    in_pool = torch.tensor([[False, True, False, True], [False] * 4])
    found = pooled_log_q(q.log(), in_pool, torch.tensor([2, 0]), n_common=6, n_own=torch.tensor([4, 0]))
    torch.testing.assert_close(found[0].exp(), (6 * q + 4 * in_pool[0] / 2) / 10)
    torch.testing.assert_close(found[1], q.log())
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(2))


def test_draws_over_their_mixed_probability_estimate_the_sum_without_bias():
    """What the correction is for: the mean of f(j) / q(j | row) over common and own draws is the sum of f."""
    generator = torch.Generator().manual_seed(0)
    q, values = torch.rand(8, generator=generator), torch.rand(8, generator=generator).exp()
    q /= q.sum()
    pool = torch.tensor([1, 5, 6])
    in_pool = torch.zeros(1, 8, dtype=torch.bool).index_fill(1, pool, True)
    log_q = pooled_log_q(q.log(), in_pool, torch.tensor([3]), n_common=5, n_own=torch.tensor([4]))[0]
    common = torch.multinomial(q.expand(4000, 8), 5, replacement=True, generator=generator)
    own = pool[torch.randint(3, (4000, 4), generator=generator)]
    estimates = (values / log_q.exp())[torch.cat([common, own], dim=1)].mean(dim=1)
    assert abs(estimates.mean() - values.sum()) < 4 * estimates.std() / 4000**0.5


def test_each_row_may_have_draws_and_probabilities_of_its_own():
    users, items = _embeddings(2, 0), _embeddings(4, 1)
    log_q = torch.rand(2, 4, generator=torch.Generator().manual_seed(2)).log()
    draws, positives = torch.tensor([[1, 2, 0, 3], [0, 1, 1, 0]]), torch.tensor([0, 2])
    # A column that a row did not draw has no influence, even where it has no probability.
    log_q[0, 2] = -math.inf
    losses = logq_softmax(
        users, items, torch.arange(4), log_q, positives=positives, draws=draws, temperature=0.5, reduction="none"
    )
    logits = users @ items.T / 0.5
    for row, positive in enumerate(positives.tolist()):
        weights = [
            float(draws[row, j] * (logits[row, j] - log_q[row, j]).exp()) if draws[row, j] else 0 for j in range(4)
        ]
        own = float((logits[row, positive] - log_q[row, positive]).exp())
        expected = -math.log(own / (own + sum(weights) - weights[positive]))
        assert losses[row].item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_torchs_when_nothing_is_excluded():
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    positives = torch.tensor([0, 3, 8, 3, 1])
    torch.testing.assert_close(cross_entropy(logits, positives), functional.cross_entropy(logits, positives))


def test_a_row_without_negatives_loses_nothing_and_has_a_finite_gradient():
    users = _embeddings(2, 0).requires_grad_()
    loss = logq_softmax(users, _embeddings(2, 1), torch.tensor([5, 5]), torch.zeros(2))
    loss.backward()
    assert loss.item() == 0
    assert users.grad is not None and torch.equal(users.grad, torch.zeros_like(users.grad))


@pytest.mark.parametrize("n", [1, 20, 10**6])
def test_the_positive_stands_once_beside_n_draws_and_the_more_there_are_the_less_its_own_score_counts(n):
    """Every other item is drawn n q times, which is what is expected of it: the sum is n Z, and the positive's share
    e^s / (e^s + n q Z), that of a softmax over the catalogue where n q = 1 alone; in the limit its gradient is -1."""
    logits = torch.tensor([1.5, -0.5, 0.0, 2.0, 0.5], dtype=torch.float64)
    q = torch.tensor([0.05, 0.4, 0.25, 0.2, 0.1], dtype=torch.float64)
    items = logits.float().unsqueeze(1).requires_grad_()
    one = torch.ones(1, 1)
    loss = logq_softmax(one, items, torch.arange(5), q.log().float(), temperature=1.0, draws=n * q.float())
    loss.backward()
    assert items.grad is not None
    weight, others = logits.exp(), slice(1, None)
    share = weight[0] / (weight[0] + n * q[0] * weight[others].sum())
    expected = torch.cat([share[None] - 1, (1 - share) * weight[others] / weight[others].sum()])
    torch.testing.assert_close(items.grad[:, 0].double(), expected, rtol=1e-4, atol=1e-6)
    of_catalogue = torch.softmax(logits, 0)
    if n * float(q[0]) == 1:
        torch.testing.assert_close(share, of_catalogue[0])
    if n == 10**6:
        assert expected[0] < -0.9999
