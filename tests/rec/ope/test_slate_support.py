"""Which share of a target's slates a log could have shown, against sums over every slate."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from rec.ope.slate_policy import SlatePolicy
from rec.ope.slate_support import supported_positions, supported_slates
from rec.policy import slate_propensities

N_ITEMS, K = 6, 3
SLATES = np.array(list(itertools.permutations(range(N_ITEMS), K)))
SCORES = np.array([0.3, 1.1, -0.4, 0.8, 0.8, 2.0])


def policy(items, n, *, epsilon, temperature, scores=SCORES):
    """Ranks some items, in any order."""
    candidates = np.array(items)
    return SlatePolicy(
        np.tile(candidates, (n, 1)), np.tile(scores[candidates], (n, 1)), np.full(n, epsilon), np.full(n, temperature)
    )


def repeated(of, n):
    """The policy of one request for n."""
    arrays = ("candidates", "scores", "epsilon", "temperature")
    return SlatePolicy(*(np.repeat(getattr(of, name), n, axis=0) for name in arrays))


def n_eligible(n, k=K):
    return np.tile(N_ITEMS - np.arange(k), (n, 1))


def probabilities(of):
    """Of every slate, (S, K)."""
    n = len(SLATES)
    return slate_propensities(
        np.tile(of.scores[:1], (n, 1)),
        np.tile(of.candidates[:1], (n, 1)),
        SLATES,
        n_eligible(n),
        epsilon=float(of.epsilon[0]),
        temperature=float(of.temperature[0]),
    )


CASES = {
    "one item of six is new": (([0, 1, 2, 3, 4], 0.0, 1.0), ([5, 1, 2, 3, 4], 0.0, 0.7)),
    "injected items": (([0, 1, 2, 3], 0.0, 0.3), ([4, 3, 2], 0.6, 0.5)),
    "logged candidates that the target only injects": (([0, 1, 2, 5], 0.0, 1.0), ([3, 1], 0.5, 1.0)),
    "the best alone": (([5, 1, 3, 4, 0], 0.0, 0.0), ([5, 1, 3, 4], 0.1, 0.4)),
    "anything below two candidates": (([0, 1], 0.0, 1.0), ([0, 1, 2, 3], 0.2, 2.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_share_is_the_probability_of_the_slates_that_can_be_logged(case):
    n = 20_000
    logging, target = (policy(items, n, epsilon=e, temperature=t) for items, e, t in CASES[case])
    logged, wanted = probabilities(logging).prod(axis=1), probabilities(target).prod(axis=1)
    assert logged.sum() == pytest.approx(1) and wanted.sum() == pytest.approx(1)
    truth = wanted[logged > 0].sum()
    # What the mean of w_1:K is under the logging policy.
    weights = wanted / np.where(logged > 0, logged, 1.0)
    assert (logged * weights).sum() == pytest.approx(truth)
    shares = supported_slates(target, logging, n_eligible(n), rng=np.random.default_rng(0))
    assert shares.mean() == pytest.approx(truth, abs=4 * shares.std() / n**0.5 + 1e-12)
    assert 0.02 < truth < 0.98


def test_the_logged_items_above_would_give_another_share():
    """The log seldom shows first what makes the target's next choice impossible."""
    scores = np.array([-4.0, 0.0, 0.0, 0.0, 5.0, 0.0])
    logging = policy([0, 1, 2, 3], 1, epsilon=0.0, temperature=1.0, scores=scores)
    target = policy([0, 4], 1, epsilon=0.0, temperature=1.0, scores=np.array([9.0, 0, 0, 0, 0.0, 0]))
    logged, wanted = probabilities(logging).prod(axis=1), probabilities(target).prod(axis=1)
    rows = np.flatnonzero(logged > 0)
    n = len(rows)
    shares = supported_positions(repeated(target, n), repeated(logging, n), SLATES[rows], n_eligible(n))
    below_logged = shares.prod(axis=1)
    assert wanted[rows].sum() < 0.01
    assert logged[rows] @ below_logged > 0.5


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_where_everything_can_be_logged_the_share_is_one(epsilon):
    n = 500
    logging = policy([0, 1, 2, 3, 4, 5], n, epsilon=epsilon, temperature=0.5)
    target = policy([4, 1, 2], n, epsilon=0.3, temperature=0.0)
    shares = supported_slates(target, logging, n_eligible(n), rng=np.random.default_rng(0))
    assert (shares == 1.0).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_what_is_drawn_can_be_logged_also_at_the_ends_of_a_distribution(uniform):
    """Of items 0, 1, 2 alike to the target the log ranks no 0: a slate goes on below 1 or 2, and below 0 never."""
    logging, target = (policy(items, 1, epsilon=0.0, temperature=1e9) for items in ([1, 2, 3], [0, 1, 2]))
    rng = SimpleNamespace(random=lambda n: np.full(n, uniform))
    found = supported_slates(target, logging, n_eligible(1, 2), rng=rng)
    assert found == pytest.approx(2 / 3 * 1 / 2)


def test_positions_after_the_end_lose_nothing():
    logging, target = (policy(items, 50, epsilon=0.0, temperature=1.0) for items in ([0, 1], [0, 2]))
    ended = n_eligible(50) * np.array([1, 0, 0])
    whole = supported_slates(target, logging, ended, rng=np.random.default_rng(0))
    first = supported_slates(target, logging, n_eligible(50, 1), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(whole, first)
    slate = np.tile([0, -1, -1], (50, 1))
    np.testing.assert_allclose(supported_positions(target, logging, slate, ended)[:, 1:], 1.0)


def test_choices_at_a_position_are_those_below_what_was_logged():
    """Below item 0 the target's remaining two of three candidates can be logged with the chance of one of them."""
    logging, target = (policy(items, 1, epsilon=0.0, temperature=1e9) for items in ([0, 1, 3], [0, 1, 2]))
    found = supported_positions(target, logging, np.array([[0, 3, 1]]), n_eligible(1))
    np.testing.assert_allclose(found, [[2 / 3, 1 / 2, 1 / 2]], rtol=1e-6)
