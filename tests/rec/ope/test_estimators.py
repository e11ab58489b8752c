"""Laws of the estimators for one item a round."""

import numpy as np
import pytest

from rec.errors import DataError
from rec.ope.estimators import (
    ESTIMATORS,
    SHRINKING_ESTIMATORS,
    clipped_ips,
    contribution_bounds,
    dm,
    dr,
    dr_os,
    ips,
    sndr,
    snips,
    switch_dr,
)
from rec.ope.logged import LoggedActions


def logged(weights, rewards, q_logged=None, q_target=None):
    """Rounds of given weights: every propensity is .1 and target_p a tenth of the weight."""
    weights = np.asarray(weights, float)
    return LoggedActions(
        rewards=np.asarray(rewards, float),
        propensities=np.full(len(weights), 0.1),
        target_p=weights / 10,
        q_logged=None if q_logged is None else np.asarray(q_logged, float),
        q_target=None if q_target is None else np.asarray(q_target, float),
    )


@pytest.fixture
def rounds(world):
    return world.sample(400, np.random.default_rng(0))


def test_worked_example():
    # Weights 2 and 1/2, rewards 1 and 0, predictions .5 and .25 of what was shown, .6 and .2 under the target.
    two = logged([2, 0.5], [1, 0], [0.5, 0.25], [0.6, 0.2])
    assert dm(two).value == pytest.approx(0.4)
    assert ips(two).value == pytest.approx(1.0)
    assert clipped_ips(two, 1.5).value == pytest.approx(0.75)
    assert snips(two).value == pytest.approx(2 / 2.5)
    assert dr(two).value == pytest.approx((0.6 + 2 * 0.5 + 0.2 - 0.5 * 0.25) / 2)
    assert sndr(two).value == pytest.approx(0.4 + (2 * 0.5 - 0.5 * 0.25) / 2.5)
    assert switch_dr(two, 1.0).value == pytest.approx((0.6 + 0.2 - 0.5 * 0.25) / 2)
    # At lambda 1, weights become 2 / 5 and .5 / 1.25.
    assert dr_os(two, 1.0).value == pytest.approx((0.6 + 0.4 * 0.5 + 0.2 - 0.4 * 0.25) / 2)


@pytest.mark.parametrize("name", ["ips", "dr"])
def test_expectation_is_the_value_of_the_target_policy(world, name):
    rounds, probability = world.every_outcome()
    contributions = ESTIMATORS[name](rounds).numerator[:, 0]
    assert probability.sum() == pytest.approx(1)
    assert probability @ contributions == pytest.approx(world.value, rel=1e-12)


@pytest.mark.parametrize("name", ["snips", "sndr"])
def test_self_normalised_limit_is_the_value_of_the_target_policy(world, name):
    rounds, probability = world.every_outcome()
    terms = ESTIMATORS[name](rounds)
    limit = (probability @ terms.numerator / (probability @ terms.denominator)).sum()
    assert limit == pytest.approx(world.value, rel=1e-12)


def test_doubly_robust_with_wrong_propensities_and_right_predictions(world):
    rounds, probability = world.every_outcome()
    right = LoggedActions(
        rewards=rounds.rewards,
        propensities=np.sqrt(rounds.propensities),
        target_p=rounds.target_p,
        q_logged=np.repeat(world.q.reshape(-1), 2),
        q_target=np.repeat((world.target * world.q).sum(axis=1), 2 * world.q.shape[1]),
    )
    assert probability @ dr(right).numerator[:, 0] == pytest.approx(world.value)
    assert probability @ ips(right).numerator[:, 0] != pytest.approx(world.value, rel=0.01)


def test_self_normalised_estimates_move_with_the_rewards(rounds):
    shifted = LoggedActions(rounds.rewards + 3, rounds.propensities, rounds.target_p)
    assert snips(shifted).value == pytest.approx(snips(rounds).value + 3)
    assert ips(shifted).value != pytest.approx(ips(rounds).value + 3, abs=1e-3)


def test_without_a_reward_model_doubly_robust_is_weighting(rounds):
    nothing = np.zeros(len(rounds))
    blind = LoggedActions(rounds.rewards, rounds.propensities, rounds.target_p, q_logged=nothing, q_target=nothing)
    assert dr(blind).value == pytest.approx(ips(blind).value)
    assert sndr(blind).value == pytest.approx(snips(blind).value)
    assert switch_dr(blind, 2.0).value == pytest.approx(ips(blind).value - _above(blind, 2.0))
    assert dm(blind).value == 0


def _above(rounds, threshold):
    return float(np.mean(np.where(rounds.weights > threshold, rounds.weights, 0) * rounds.rewards))


def test_perfect_predictions_leave_only_the_direct_method(rounds):
    perfect = LoggedActions(
        rounds.rewards, rounds.propensities, rounds.target_p, q_logged=rounds.rewards, q_target=rounds.q_target
    )
    for name in ("dr", "sndr"):
        assert ESTIMATORS[name](perfect).value == pytest.approx(dm(perfect).value)
    for name in ("switch_dr", "dr_os"):
        assert SHRINKING_ESTIMATORS[name](perfect, 1.0).value == pytest.approx(dm(perfect).value)


def test_shrinking_goes_from_the_direct_method_to_doubly_robust(rounds):
    assert rounds.weights.min() > 0
    for shrink in (switch_dr, dr_os):
        assert shrink(rounds, 0.0).value == pytest.approx(dm(rounds).value)
        assert shrink(rounds, np.inf).value == dr(rounds).value
    assert clipped_ips(rounds, np.inf).value == ips(rounds).value


def test_the_log_of_the_target_itself_is_its_mean_reward(rounds):
    own = LoggedActions(rounds.rewards, rounds.propensities, rounds.propensities)
    for estimator in (ips, snips):
        assert estimator(own).value == pytest.approx(rounds.rewards.mean())


@pytest.mark.parametrize("name", ["dm", "dr", "sndr"])
def test_predictions_are_asked_for(rounds, name):
    with pytest.raises(DataError, match="q_logged and q_target"):
        ESTIMATORS[name](LoggedActions(rounds.rewards, rounds.propensities, rounds.target_p))


@pytest.mark.parametrize("name", ["dm", "ips", "dr"])
@pytest.mark.parametrize("reward_range", [(0.0, 1.0), (-2.0, 2.0), (1.0, 3.0)])
def test_contributions_stay_within_their_bounds_and_reach_them(name, reward_range):
    # Every corner of weight, reward and predictions.
    corners = np.array([[w, r, q, t] for w in (0, 5) for r in reward_range for q in reward_range for t in reward_range])
    found = ESTIMATORS[name](logged(*corners.T)).numerator
    bounds = contribution_bounds(name, reward_range=reward_range, weight_bound=5.0)
    np.testing.assert_allclose((found.min(), found.max()), bounds, atol=1e-12)


def test_a_parameter_for_each_row_is_that_of_the_row(rounds):
    parameters = np.where(np.arange(len(rounds)) % 2, 0.5, 2.0)
    for name, shrink in SHRINKING_ESTIMATORS.items():
        either = [shrink(rounds, value).numerator[:, 0] for value in (2.0, 0.5)]
        expected = np.where(np.arange(len(rounds)) % 2, either[1], either[0])
        np.testing.assert_array_equal(shrink(rounds, parameters).numerator[:, 0], expected, err_msg=name)


def test_self_normalised_estimators_have_no_bounds():
    assert contribution_bounds("snips", reward_range=(0, 1), weight_bound=5.0) is None


def test_a_weight_at_the_threshold_is_still_trusted():
    """So that with the log's own policy, whose weights are all 1, a threshold of 1 switches nothing off."""
    own = logged([1, 1, 1], [1, 0, 1], [0.2, 0.4, 0.6], [0.5, 0.5, 0.5])
    assert switch_dr(own, 1.0).value == pytest.approx(dr(own).value)
    assert switch_dr(own, 0.999).value == pytest.approx(dm(own).value)
