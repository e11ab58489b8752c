"""How shrinking is chosen: on other users' rows, and not without need."""

from dataclasses import replace

import numpy as np
import pytest

from rec.errors import DataError
from rec.ope.estimators import SHRINKING_ESTIMATORS, clipped_ips, dr_os
from rec.ope.logged import LoggedActions
from rec.ope.tuning import GRIDS, choose, cross_fitted, user_folds


def test_folds_keep_users_whole_and_are_of_equal_size():
    users = np.random.default_rng(0).integers(0, 103, 5000).astype(str)
    folds = user_folds(users, 5, np.random.default_rng(1))
    of_user = {user: set(folds[users == user]) for user in np.unique(users)}
    assert all(len(found) == 1 for found in of_user.values())
    sizes = np.bincount([next(iter(found)) for found in of_user.values()])
    assert sizes.max() - sizes.min() <= 1
    with pytest.raises(DataError, match="5 folds"):
        user_folds(users[:1], 5, np.random.default_rng(1))


def heavy(n, rng, q_error):
    """Weights of infinite variance, rewards around 1, predictions that are off by a constant."""
    weights = rng.pareto(1.2, n) / 5
    p = np.minimum(1e-3, 1 / (2 * weights + 1e-9))
    return LoggedActions(
        rewards=1 + rng.normal(size=n),
        propensities=p,
        target_p=weights * p,
        q_logged=np.full(n, 1 + q_error),
        q_target=np.full(n, 1 + q_error),
    )


def test_heavy_weights_are_shrunk_where_predictions_are_right():
    rounds = heavy(4000, np.random.default_rng(0), 0.0)
    assert choose(rounds, dr_os, GRIDS["dr_os"]) < 10


def test_light_weights_are_left_alone_where_predictions_are_wrong(world):
    rounds = world.sample(20_000, np.random.default_rng(0))
    assert choose(rounds, clipped_ips, GRIDS["clipped_ips"]) > 0.7 * rounds.weights.max()


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_a_folds_rows_do_not_choose_for_themselves(world, name):
    """Rewards of one fold's users may change as they like: what their own weights are shrunk by stays."""
    rare = np.full_like(world.logging, 0.01)
    rare[:, 0] = 0.97
    rounds = replace(world, logging=rare).sample(2000, np.random.default_rng(0), rows_per_user=2)
    folds = user_folds(rounds.codes()[0], 5, np.random.default_rng(9))
    changed = LoggedActions(
        np.where(folds == 2, 100 * rounds.rewards, rounds.rewards),
        rounds.propensities,
        rounds.target_p,
        rounds.clusters,
        rounds.q_logged,
        rounds.q_target,
    )
    grid, estimator = GRIDS[name], SHRINKING_ESTIMATORS[name]
    _, before = cross_fitted(rounds, estimator, grid, rng=np.random.default_rng(9))
    _, after = cross_fitted(changed, estimator, grid, rng=np.random.default_rng(9))
    assert before[2] == after[2]
    assert before != after


def test_contributions_are_those_of_each_folds_parameter(world):
    rounds = world.sample(1000, np.random.default_rng(0))
    terms, chosen = cross_fitted(rounds, dr_os, GRIDS["dr_os"], rng=np.random.default_rng(4))
    folds = user_folds(np.arange(1000), 5, np.random.default_rng(4))
    for fold, parameter in enumerate(chosen):
        np.testing.assert_array_equal(terms.numerator[folds == fold], dr_os(rounds, parameter).numerator[folds == fold])
