"""Reward models: they find what is there, and never see the users they predict for."""

import numpy as np
import pytest

from rec.crossfit import user_folds
from rec.errors import DataError
from rec.ope.reward_model import cross_fit_actions, logistic_per_action, ridge, ridge_per_action


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_ridge_is_that_of_one_action():
    rng = np.random.default_rng(0)
    features, rewards, others = rng.normal(size=(60, 3)), rng.random(60), rng.normal(size=(9, 3))
    of_one = ridge_per_action(features, np.zeros(60, int), rewards, 1)(others)
    np.testing.assert_array_equal(ridge(features, rewards)(others), of_one[:, 0])


@pytest.mark.parametrize("fit", [ridge_per_action, logistic_per_action])
def test_each_action_has_a_regression_of_its_own(fit):
    rng = np.random.default_rng(1)
    context, actions = rng.normal(size=(9000, 2)), rng.integers(0, 3, 9000)
    slopes = np.array([[0.8, 0.0], [-0.8, 0.0], [0.0, 0.5]])
    truth = sigmoid(context @ slopes.T)
    rewards = (rng.random(9000) < truth[np.arange(9000), actions]).astype(float)
    predicted = fit(context, actions, rewards, 3)(context)
    assert np.abs(predicted - truth).mean() < 0.03


@pytest.mark.parametrize("fit", [ridge_per_action, logistic_per_action])
def test_an_action_never_logged_predicts_the_mean_reward(fit):
    rng = np.random.default_rng(2)
    context, rewards = rng.normal(size=(100, 2)), rng.integers(0, 2, 100).astype(float)
    predicted = fit(context, np.zeros(100, int), rewards, 2)(context)
    np.testing.assert_allclose(predicted[:, 1], rewards.mean())


def test_ridge_of_many_rows_is_least_squares():
    rng = np.random.default_rng(3)
    context = rng.normal(5, 2, (20_000, 2))
    rewards = 1 + context @ np.array([2.0, -1.0])
    predicted = ridge_per_action(context, np.zeros(20_000, int), rewards, 1)(context)
    np.testing.assert_allclose(predicted[:, 0], rewards, atol=2e-3)


def test_logistic_regression_is_at_its_minimum():
    # Weights are penalised by 1, so at the minimum they are minus the gradient of the sum of cross-entropies; the
    # intercept is free, but for one more round at the mean context that earned the mean reward.
    rng = np.random.default_rng(5)
    x, rewards = rng.normal(size=(500, 1)), rng.integers(0, 2, 500).astype(float)
    inputs = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(500)])
    p = logistic_per_action(x, np.zeros(500, int), rewards, 1)(x)[:, 0]
    (slope, intercept), *_ = np.linalg.lstsq(inputs, np.log(p / (1 - p)), rcond=None)
    gradient = inputs.T @ (p - rewards)
    assert gradient[0] + slope == pytest.approx(0, abs=1e-6)
    assert gradient[1] + sigmoid(intercept) - rewards.mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("spread", ["even", "uneven"])
def test_rare_rewards_are_predicted_as_rare_as_they_are(spread):
    # 40 of 10,000 rounds among 80 actions earn something: most actions never did.
    rng = np.random.default_rng(6)
    n, n_actions = 10_000, 80
    share = np.ones(n_actions) if spread == "even" else 1.0 / np.arange(1, n_actions + 1)
    actions, context = rng.choice(n_actions, n, p=share / share.sum()), rng.normal(size=(n, 6))
    rewards = np.zeros(n)
    rewards[rng.permutation(n)[:40]] = 1
    predicted = logistic_per_action(context, actions, rewards, n_actions)(context)
    assert predicted[np.arange(n), actions].mean() == pytest.approx(rewards.mean(), rel=0.02)
    assert (predicted > 0).all()


def test_logistic_regression_refuses_rewards_that_are_no_shares():
    with pytest.raises(DataError, match="found -2") as refused:
        logistic_per_action(np.zeros((3, 1)), np.zeros(3, int), np.array([0.0, 1.0, -2.0]), 1)
    assert refused.value.row == 2


def test_predictions_for_a_user_do_not_depend_on_what_the_user_did():
    rng = np.random.default_rng(4)
    users = rng.integers(0, 30, 300)
    folds = user_folds(users.astype(str), 3)
    context, actions, rewards = rng.normal(size=(300, 2)), rng.integers(0, 3, 300), rng.random(300)
    changed = np.where(folds == 1, rewards + 10, rewards)
    told, again = (
        cross_fit_actions(ridge_per_action, context, actions, given, folds, 3) for given in (rewards, changed)
    )
    assert told.shape == (300, 3)
    np.testing.assert_array_equal(told[folds == 1], again[folds == 1])
    assert (told[folds != 1] != again[folds != 1]).any()
