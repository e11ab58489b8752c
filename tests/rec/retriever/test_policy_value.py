"""Policies compared by a bound that few rounds cannot lift."""

import numpy as np
import pytest

from rec.ope.estimate import Terms, std_error
from rec.ope.intervals import student_t_interval
from rec.retriever.policy_value import LEVEL, snips_with_bound


def test_where_all_rounds_weigh_alike_it_is_the_lower_end_of_students_interval():
    rewards = np.random.default_rng(0).random(40)
    value, _, low = snips_with_bound(np.full(40, 3.0), rewards, np.arange(40))
    error = rewards.std(ddof=1) / np.sqrt(40)
    expected = student_t_interval(rewards.mean(), error, 40, level=2 * LEVEL - 1)
    assert (value, low) == pytest.approx((rewards.mean(), expected.low))


def test_rounds_of_one_user_are_no_more_than_one():
    rewards = np.repeat([0.0, 1, 1, 0, 1, 0, 1, 1], 50)
    _, _, apart = snips_with_bound(np.ones(400), rewards, np.arange(400))
    value, _, together = snips_with_bound(np.ones(400), rewards, np.repeat(np.arange(8), 50))
    _, _, once = snips_with_bound(np.ones(8), rewards[::50], np.arange(8))
    assert together == pytest.approx(once) and together < apart < value


def test_a_few_rounds_that_agree_lift_no_bound():
    """Two rounds of 1,000 hold nearly all weight and both earned 1; the others earn a tenth."""
    rng = np.random.default_rng(0)
    users, rewards = np.arange(1000), (rng.random(1000) < 0.1).astype(float)
    rewards[:2] = 1
    weights = np.ones(1000)
    _, _, plain = snips_with_bound(weights, rewards, users)
    weights[:2] = 1e5
    value, _, low = snips_with_bound(weights, rewards, users)
    error = std_error(Terms.ratios([(weights * rewards, weights)]), users, 1000)
    assert error is not None and value - 3 * error > 0.9, "by its standard error alone it would be sure"
    assert low < 0 < plain


def test_the_best_bound_of_many_policies_seldom_exceeds_what_any_of_them_earns():
    """Weights that have nothing to do with rewards, of policies from flat to peaked: all of them earn a tenth."""
    rng = np.random.default_rng(0)
    too_high = np.zeros(2)
    for _ in range(200):
        rewards = (rng.random(300) < 0.1).astype(float)
        steps = rng.normal(size=(20, 300)).cumsum(axis=0) * 0.6
        found = np.array([snips_with_bound(np.exp(step), rewards, np.arange(300))[::2] for step in steps])
        too_high += found.max(axis=0) > 0.1
    by_estimate, by_bound = too_high / 200
    assert by_estimate > 0.7
    assert by_bound < 0.2


def test_the_unit_of_weights_does_not_matter():
    rng = np.random.default_rng(0)
    weights, rewards, users = rng.lognormal(size=60), rng.random(60), rng.integers(0, 9, 60)
    assert snips_with_bound(weights, rewards, users) == pytest.approx(snips_with_bound(7 * weights, rewards, users))


def test_one_round_with_all_the_weight_has_the_bound_of_two():
    """Worked by hand: one degree of freedom at least, whose 95% quantile is tan(.45 pi); 0 and 1 vary by 1/2."""
    value, _, low = snips_with_bound(np.array([1e6, 1.0]), np.array([1.0, 0.0]), np.arange(2))
    assert (value, low) == pytest.approx((1, 1 - np.tan(0.45 * np.pi) / 2), rel=1e-4)
