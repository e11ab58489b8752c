"""Marginals of an item at its position, against sums over every slate above it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rec.ope.marginals import marginal_probabilities
from rec.ope.slate_log import SlateLog
from rec.ope.slate_policy import SlatePolicy
from rec.policy import slate_propensities

N_ITEMS, K, EPSILON, TEMPERATURE = 6, 3, 0.2, 0.7


def log_of(slates):
    n = len(slates)
    scores = np.array([0.3, 1.1, -0.4, 0.8])
    policy = SlatePolicy(
        np.tile([5, 0, 2, 3], (n, 1)), np.tile(scores, (n, 1)), np.full(n, EPSILON), np.full(n, TEMPERATURE)
    )
    slate = np.asarray(slates)
    shown = slate >= 0
    ids = np.array([f"i{number}" for number in range(N_ITEMS)], dtype=object)
    names = np.array([str(row) for row in range(n)], dtype=object)
    n_eligible = np.where(shown, N_ITEMS - np.arange(K), 0)
    zeros = np.where(shown, 0.0, np.nan)
    nothing = [ids[:0]] * n
    return SlateLog(ids, names, names, names, slate, zeros, zeros, n_eligible, policy, nothing, nothing, [{}] * n, 0)


def exact(item, position):
    total = 0.0
    for above in itertools.permutations(set(range(N_ITEMS)) - {item}, position):
        log = log_of([[*above, item] + [-1] * (K - position - 1)])
        policy = log.logging
        p = slate_propensities(
            policy.scores, policy.candidates, log.slate, log.n_eligible, epsilon=EPSILON, temperature=TEMPERATURE
        )
        total += np.nanprod(p)
    return total


@pytest.mark.parametrize("slate", [[0, 3, 5], [1, 0, 4], [5, 4, 1]])
def test_marginals_are_sums_over_what_may_stand_above(slate):
    log = log_of([slate])
    found = marginal_probabilities(log.logging, log, rng=np.random.default_rng(0), n_prefixes=20_000)[0]
    truth = [exact(item, position) for position, item in enumerate(slate)]
    assert found[0] == pytest.approx(truth[0], rel=1e-12)
    np.testing.assert_allclose(found, truth, rtol=0.02)


def test_a_short_slate_has_none_below_its_end():
    log = log_of([[2, -1, -1]])
    found = marginal_probabilities(log.logging, log, rng=np.random.default_rng(0), n_prefixes=10)[0]
    assert np.isfinite(found[0]) and np.isnan(found[1:]).all()


def test_each_request_is_drawn_by_a_policy_of_its_own():
    """At the top, by hand; the second policy ranks two items, beside gaps."""
    log = log_of([[0, -1, -1], [2, -1, -1]])
    candidates, parameters = np.array([[5, 0, 2, 3], [-1, 5, -1, 2]]), (np.array([0.2, 0.5]), np.array([0.7, 2.0]))
    policy = SlatePolicy(candidates, log.logging.scores, *parameters)
    found = marginal_probabilities(policy, log, rng=np.random.default_rng(0), n_prefixes=2)[:, 0]
    weights = np.exp(policy.scores / policy.temperature[:, None])
    first = 0.2 / N_ITEMS + 0.8 * weights[0, 1] / weights[0].sum()
    second = 0.5 / N_ITEMS + 0.5 * weights[1, 3] / (weights[1, 1] + weights[1, 3])
    np.testing.assert_allclose(found, [first, second])


def test_items_beside_more_candidates_than_were_eligible_have_their_place_too():
    """The log counts four and the policy lists four others: the item shown is a fifth, which only epsilon draws."""
    log = log_of([[1, -1, -1]])
    log = replace(log, n_eligible=np.array([[4, 0, 0]]))
    found = marginal_probabilities(log.logging, log, rng=np.random.default_rng(0), n_prefixes=10)
    assert found[0, 0] == pytest.approx(EPSILON / 5)
