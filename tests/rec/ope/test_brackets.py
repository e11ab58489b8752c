"""Between what the truth lies where weights are shrunk, whatever the reward model says."""

import numpy as np
import pytest

from rec.errors import DataError
from rec.ope.brackets import Bracket, shrunk_bracket
from rec.ope.estimate import Terms
from rec.ope.estimators import SHRINKAGES, SHRINKING_ESTIMATORS, dr
from rec.ope.evaluation import evaluate
from rec.ope.interval_settings import IntervalSettings
from rec.ope.intervals import student_t_interval
from rec.ope.logged import LoggedActions

PARAMETERS = (0.3, 1.0, 4.0, 1e9)


def bracket_of(rounds, name, parameter, **more):
    value = SHRINKING_ESTIMATORS[name](rounds, parameter)
    return shrunk_bracket(rounds, name, value, parameter, **{"reward_range": (0.0, 1.0), **more})


def expected(terms, probability):
    return float(probability @ terms.numerator[:, 0])


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_the_truth_and_the_estimate_lie_within_the_bracket_in_expectation(world, name, parameter):
    rounds, probability = world.every_outcome()
    bracket = bracket_of(rounds, name, parameter)
    low, high = (expected(end, probability) for end in bracket.ends)
    for inside in (world.value, expected(bracket.value, probability)):
        assert low - 1e-9 <= inside <= high + 1e-9
    lost = 1 - probability @ SHRINKAGES[name](rounds.weights, parameter)
    assert high - low == pytest.approx(lost, abs=1e-9)


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_rewards_at_the_ends_of_their_range_reach_the_ends_of_the_bracket(name):
    """Where all that was shrunk away earned the most there is, the truth is the high end; the least, the low end."""
    p = np.array([0.9, 0.1])
    target = np.array([0.2, 0.8])
    for earned, end in ((1.0, "high"), (0.0, "low")):
        # One row for each action; the first has a weight below 1, which dr_os shrinks, too: its reward is the same.
        rounds = LoggedActions(np.full(2, earned), p, target, q_logged=np.zeros(2), q_target=np.zeros(2))
        assert expected(getattr(bracket_of(rounds, name, 1.5), end), p) == pytest.approx(earned)


def test_a_shift_and_a_stretch_of_rewards_shift_and_stretch_the_bracket(world):
    rounds = world.sample(300, np.random.default_rng(0))
    moved = LoggedActions(
        3 + 2 * rounds.rewards, rounds.propensities, rounds.target_p, q_logged=rounds.q_logged, q_target=rounds.q_target
    )
    one = bracket_of(rounds, "dr_os", 2.0)
    other = bracket_of(moved, "dr_os", 2.0, reward_range=(3.0, 5.0))
    for end in ("low", "high"):
        assert getattr(other, end).value == pytest.approx(3 + 2 * getattr(one, end).value)


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
@pytest.mark.parametrize("reward_range", [(0.0, 1.0), (-2.0, 2.0), (1.0, 3.0)])
@pytest.mark.parametrize("weight_bound", [5.0, np.inf])
def test_rows_stay_within_their_bounds_and_reach_them(name, reward_range, weight_bound):
    """Whatever weights are possible: shrunk ones are at most 3, or 3/2. A row of weight 0 may shrink more strongly."""
    # Every corner of weight and reward, and the weights at which the shrunk weight is largest.
    corners = np.array([[w, r] for w in (0, 3, 5) for r in reward_range])
    rounds = LoggedActions(
        corners[:, 1], np.full(6, 0.1), corners[:, 0] / 10, q_logged=np.zeros(6), q_target=np.zeros(6)
    )
    parameter = (9.0 if name == "dr_os" else 3.0) / np.array([3, 3, 1, 1, 1, 1])
    bracket = bracket_of(rounds, name, parameter, reward_range=reward_range, weight_bound=weight_bound)
    for terms, bounds in zip(bracket.ends, bracket.bounds, strict=True):
        np.testing.assert_allclose((terms.numerator.min(), terms.numerator.max()), bounds, atol=1e-12)


def test_the_bracket_of_a_difference_holds_both_brackets():
    a, b = (Bracket(*(Terms.mean(np.full(3, end)) for end in ends)) for ends in ((2.0, 1.0, 4.0), (1.0, 0.5, 1.5)))
    difference = a - b
    assert (difference.value.value, difference.low.value, difference.high.value) == (1.0, -0.5, 3.5)


def test_an_unbiased_estimate_is_its_own_bracket_and_so_is_a_difference(world):
    terms = dr(world.sample(50, np.random.default_rng(0)))
    bracket = Bracket.unbiased(terms)
    assert bracket.is_unbiased and (bracket - bracket).is_unbiased
    assert bracket.ends == (terms, terms)
    biased = Bracket(*(Terms.mean(np.full(50, end)) for end in (2.0, 1.0, 4.0)))
    low, high = (biased - bracket).ends
    assert (low.value, high.value) == pytest.approx((1 - terms.value, 4 - terms.value))


def test_rewards_outside_the_range_are_named(world):
    rounds = world.sample(50, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"lie in \[0, 0.5\]; found 1") as refused:
        bracket_of(rounds, "dr_os", 1.0, reward_range=(0.0, 0.5))
    assert refused.value.row == int(np.argmax(rounds.rewards))


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_weights_that_are_too_large_on_average_do_not_close_the_interval_at_the_estimate(world, name):
    rounds = world.sample(2000, np.random.default_rng(5))
    halved = LoggedActions(
        rounds.rewards, rounds.propensities / 2, rounds.target_p, q_logged=rounds.q_logged, q_target=rounds.q_target
    )
    interval = IntervalSettings(reward_range=(0.0, 1.0))
    parameters = {name: 1e9}
    found = evaluate(halved, [name], parameters=parameters, interval=interval, rng=np.random.default_rng(0))[name]
    assert found.interval is not None and found.std_error is not None
    reach = student_t_interval(found.value, found.std_error, found.n_clusters, level=0.95)
    assert found.interval.low <= reach.low and found.interval.high >= reach.high


@pytest.mark.parametrize(("column", "bounds"), [("rewards", ((0.2, 1.0), 1e3)), ("target_p", ((0.0, 1.0), 0.01))])
@pytest.mark.parametrize("name", ["ips", "dm", "dr"])
def test_bounds_that_the_log_contradicts_are_refused(world, name, column, bounds):
    rounds = world.sample(500, np.random.default_rng(0))
    interval = IntervalSettings(method="empirical_bernstein", reward_range=bounds[0], weight_bound=bounds[1])
    silent = LoggedActions(
        rounds.rewards * (column == "rewards"),
        rounds.propensities,
        rounds.target_p,
        q_logged=0 * rounds.rewards,
        q_target=0 * rounds.rewards,
    )
    with pytest.raises(DataError) as refused:
        evaluate(silent, [name], interval=interval, rng=np.random.default_rng(0))
    assert refused.value.column == column
