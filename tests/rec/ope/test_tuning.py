"""How shrinking is chosen: on other users' rows, and not without need."""

from dataclasses import replace

import numpy as np
import pytest

from rec.crossfit import user_folds
from rec.errors import DataError
from rec.ope.estimators import SHRINKING_ESTIMATORS, clipped_ips, dr_os
from rec.ope.logged import LoggedActions
from rec.ope.tuning import GRIDS, N_FOLDS, choose, shrunk_by_others


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
    folds = user_folds(rounds.clusters, N_FOLDS)
    changed = replace_rewards(rounds, np.where(folds == 2, 100 * rounds.rewards, rounds.rewards))
    estimator, grid = SHRINKING_ESTIMATORS[name], GRIDS[name]
    told, again = (shrunk_by_others(data, estimator, grid).numerator[:, 0] for data in (rounds, changed))
    for data, contributions in ((rounds, told), (changed, again)):
        parameter = choose(rounds.select(folds != 2), estimator, grid)
        own = data.select(folds == 2)
        np.testing.assert_array_equal(contributions[folds == 2], estimator(own, parameter).numerator[:, 0])
    assert (told[folds != 2] != again[folds != 2]).any()


def replace_rewards(rounds, rewards):
    return LoggedActions(
        rewards, rounds.propensities, rounds.target_p, rounds.clusters, rounds.q_logged, rounds.q_target
    )


def test_too_few_users_to_choose_by_others_are_said(world):
    rounds = world.sample(2, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"clipped_ips shrinks weights is chosen on other users.*ips, snips"):
        shrunk_by_others(rounds, clipped_ips, GRIDS["clipped_ips"])
