"""Laws of the slate estimators, against sums over every slate of a small world."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rec.errors import DataError, SupportError
from rec.ope import LoggedSlates
from rec.ope.slates import SLATE_ESTIMATORS, cascade, cascade_dr, position_wise, sn_cascade, sn_position_wise

N_ITEMS, K = 4, 3


class SlateWorld:
    """One context, slates of three of four items without replacement, drawn top down by conditional probabilities.

    The reward of a position depends on its item and the items above, in order, as the cascade assumes; with
    `independent`, on item and position alone.
    """

    def __init__(self, seed: int, *, independent: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.slates = np.array(list(itertools.permutations(range(N_ITEMS), K)))
        self.prefixes = [prefix for k in range(K) for prefix in itertools.permutations(range(N_ITEMS), k)]
        self.logging = {prefix: self._choice(prefix, rng) for prefix in self.prefixes}
        self.target = {prefix: self._choice(prefix, rng) for prefix in self.prefixes}
        own = rng.normal(size=(N_ITEMS, K))
        self.reward = {
            (*prefix, item): own[item, len(prefix)] + (0 if independent else rng.normal())
            for prefix in self.prefixes
            for item in range(N_ITEMS)
            if item not in prefix
        }
        self.rng = rng

    @staticmethod
    def _choice(prefix, rng):
        p = rng.dirichlet(np.ones(N_ITEMS)) * 0.8 + 0.05
        p[list(prefix)] = 0
        return p / p.sum()

    def conditionals(self, policy):
        """(S, K) for every slate."""
        return np.array([[policy[tuple(slate[:k])][slate[k]] for k in range(K)] for slate in self.slates])

    def marginals(self, policy):
        whole = self.conditionals(policy).prod(axis=1)
        table = np.array([[whole[self.slates[:, k] == item].sum() for k in range(K)] for item in range(N_ITEMS)])
        return table[self.slates, np.arange(K)]

    def rewards(self):
        return np.array([[self.reward[tuple(slate[: k + 1])] for k in range(K)] for slate in self.slates])

    def logged(self, **more):
        return LoggedSlates(
            rewards=self.rewards(),
            propensities=self.conditionals(self.logging),
            target_p=self.conditionals(self.target),
            marginal_propensities=self.marginals(self.logging),
            marginal_target_p=self.marginals(self.target),
            **more,
        )

    def predictions(self, q):
        """q of a prefix with its item, as (q_logged, q_target) of every slate."""
        q_logged = np.array([[q[tuple(slate[: k + 1])] for k in range(K)] for slate in self.slates])
        mean = {
            prefix: sum(self.target[prefix][item] * q[(*prefix, item)] for item in range(N_ITEMS) if item not in prefix)
            for prefix in self.prefixes
        }
        return q_logged, np.array([[mean[tuple(slate[:k])] for k in range(K)] for slate in self.slates])

    def to_go(self):
        """The true expected rewards from a position to the end, under the target policy."""
        q = {}
        for prefix in sorted(self.reward, key=len, reverse=True):
            q[prefix] = self.reward[prefix]
            if len(prefix) < K:
                q[prefix] += sum(
                    self.target[prefix][item] * q[(*prefix, item)] for item in range(N_ITEMS) if item not in prefix
                )
        return q

    def value(self, weights=1.0):
        return float(self.conditionals(self.target).prod(axis=1) @ (self.rewards() * weights).sum(axis=1))

    def expectation(self, terms):
        """Sum over position of ratios of expectations under the logging policy."""
        p = self.conditionals(self.logging).prod(axis=1)
        assert p.sum() == pytest.approx(1)
        return float((p @ terms.numerator / (p @ terms.denominator)).sum())


@pytest.fixture(params=range(3))
def world(request):
    return SlateWorld(request.param)


@pytest.mark.parametrize("estimator", [cascade, sn_cascade])
def test_cascade_is_unbiased_where_rewards_depend_on_the_items_above(world, estimator):
    assert world.expectation(estimator(world.logged())) == pytest.approx(world.value(), rel=1e-12)


def test_cascade_dr_is_unbiased_whatever_the_model_says(world):
    q_logged, q_target = world.predictions({prefix: world.rng.normal() for prefix in world.reward})
    terms = cascade_dr(world.logged(q_logged=q_logged, q_target=q_target))
    assert world.expectation(terms) == pytest.approx(world.value(), rel=1e-12)


def test_cascade_dr_with_the_true_values_does_not_vary(world):
    q_logged, q_target = world.predictions(world.to_go())
    terms = cascade_dr(world.logged(q_logged=q_logged, q_target=q_target))
    np.testing.assert_allclose(terms.numerator, world.value(), atol=1e-9)


def test_cascade_dr_of_a_model_that_says_nothing_is_cascade(world):
    nothing = np.zeros((len(world.slates), K))
    logged = world.logged(q_logged=nothing, q_target=nothing)
    assert cascade_dr(logged).value == pytest.approx(cascade(logged).value)


@pytest.mark.parametrize("estimator", [position_wise, sn_position_wise])
def test_position_wise_is_unbiased_where_items_do_not_influence_each_other(estimator):
    independent = SlateWorld(5, independent=True)
    assert independent.expectation(estimator(independent.logged())) == pytest.approx(independent.value(), rel=1e-12)


def test_position_wise_is_biased_where_they_do(world):
    assert world.expectation(position_wise(world.logged())) != pytest.approx(world.value(), rel=0.01)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_positions_may_count_differently(name):
    independent, discount = SlateWorld(5, independent=True), np.array([1.0, 0.5, 0.25])
    nothing = np.zeros((len(independent.slates), K))
    logged = independent.logged(position_weights=discount, q_logged=nothing, q_target=nothing)
    found = independent.expectation(SLATE_ESTIMATORS[name](logged))
    assert found == pytest.approx(independent.value(discount), rel=1e-12)


def test_slates_of_one_item_are_rounds():
    rng = np.random.default_rng(0)
    propensities, target_p = rng.uniform(0.1, 1, (2, 50, 1))
    slates = LoggedSlates(rng.normal(size=(50, 1)), propensities, target_p)
    expected = (target_p / propensities * slates.rewards).mean()
    assert cascade(slates).value == pytest.approx(expected)


def test_nothing_is_read_below_the_end_of_a_short_slate():
    p = np.array([[0.5, 0.2, np.nan], [0.5, np.nan, np.nan]])
    short = LoggedSlates(np.array([[1.0, 2, 99], [1, 99, 99]]), p, np.array([[0.25, 0.4, 7], [1.0, -1, np.nan]]))
    # Weights 1/2 then 2, and 2: (1/2 + 1/2 * 2 * 2 + 2) / 2.
    assert cascade(short).value == pytest.approx((0.5 + 2.0 + 2.0) / 2)


def test_no_prediction_is_read_below_the_end_of_a_short_slate():
    p = np.array([[0.5, 0.2, np.nan], [0.5, np.nan, np.nan]])
    target_p, q = np.array([[0.25, 0.4, 7], [1.0, -1, np.nan]]), np.array([[1.0, 2, 99], [3, 99, 99]])
    short = LoggedSlates(np.array([[1.0, 2, 99], [1, 99, 99]]), p, target_p, q_logged=q, q_target=q + 1)
    # 2 + 1/2 (1 - 1) + 1/2 * 3 + 1 (2 - 2), and 4 + 2 (1 - 3).
    assert cascade_dr(short).value == pytest.approx((3.5 + 0.0) / 2)


def test_slates_that_have_ended_count_in_what_positions_are_worth():
    """The target's own log has the weight 1 everywhere, also below the end: it is worth what all slates earned."""
    p = np.array([[0.5, 0.2, np.nan], [0.5, np.nan, np.nan], [0.25, 0.5, 0.1]])
    rewards, nothing = np.array([[1.0, 2, 99], [4, 99, 99], [8, 16, 32]]), np.zeros((3, 3))
    own = LoggedSlates(rewards, p, p, q_logged=nothing, q_target=nothing, marginal_propensities=p, marginal_target_p=p)
    for name, estimator in SLATE_ESTIMATORS.items():
        assert estimator(own).value == pytest.approx((3 + 4 + 56) / 3), name


@pytest.mark.parametrize("name", ["position_wise", "cascade", "cascade_dr"])
def test_some_of_the_slates_are_worth_what_they_earned(world, name):
    q_logged, q_target = world.predictions(world.to_go())
    whole, rows = (
        world.logged(q_logged=q_logged, q_target=q_target + 1, position_weights=np.arange(K) + 1.0),
        np.arange(5, 9),
    )
    estimator = SLATE_ESTIMATORS[name]
    np.testing.assert_array_equal(estimator(whole.select(rows)).numerator, estimator(whole).numerator[rows])


def test_what_slates_cannot_be_is_refused():
    good = np.full((4, 2), 0.5)
    with pytest.raises(DataError, match=r"below its end.*row 1"):
        LoggedSlates(good, np.array([[0.5, 0.5], [np.nan, 0.5], [0.5, 0.5], [0.5, 0.5]]), good)
    with pytest.raises(SupportError, match=r"1 of 4 rows.*row 2"):
        LoggedSlates(good, np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.0], [0.5, 0.5]]), good)
    with pytest.raises(DataError, match="marginal_propensities"):
        position_wise(LoggedSlates(good, good, good))
    with pytest.raises(DataError, match=r"\(4, 2\)"):
        LoggedSlates(good[:, :1], good, good)


def test_every_slate_estimator_of_the_targets_own_log_is_its_mean_reward(world):
    p = world.conditionals(world.logging)
    nothing = np.zeros_like(p)
    own = LoggedSlates(
        world.rewards(), p, p, q_logged=nothing, q_target=nothing, marginal_propensities=p, marginal_target_p=p
    )
    for estimator in SLATE_ESTIMATORS.values():
        assert estimator(own).value == pytest.approx(world.rewards().sum(axis=1).mean())


@pytest.mark.parametrize("estimator", [sn_position_wise, sn_cascade])
def test_self_normalised_estimates_of_a_constant_are_that_constant(world, estimator):
    """In every sample, as the weights of a position are divided by their mean."""
    logged = replace(world.logged(), rewards=np.tile([1.0, 2.0, 4.0], (len(world.slates), 1)))
    assert estimator(logged).value == pytest.approx(7)
