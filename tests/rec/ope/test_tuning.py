"""How shrinking is chosen: on other users' rows, and not without need; and what the intervals are worth."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from rec.crossfit import user_folds
from rec.errors import DataError
from rec.ope import LoggedActions, OverlapWarning, evaluate
from rec.ope.estimators import SHRINKAGES, SHRINKING_ESTIMATORS
from rec.ope.tuning import GRIDS, N_FOLDS, choose, chosen_by_others

BINARY = (0.0, 1.0)


@pytest.mark.parametrize("name", ["clipped_ips", "dr_os"])
def test_a_weight_that_is_noise_is_shrunk_by_half(name):
    # One row has a twentieth of the target policy. Kept by a share s it adds about s^2 to the squared error and
    # (1 - s)^2 to the bound on the squared bias, in the same unit: s = 1 / 2 is best.
    n = 20_000
    weights, rewards, p = np.full(n, 0.95), np.random.default_rng(0).integers(0, 2, n).astype(float), np.full(n, 1e-3)
    weights[4], rewards[4] = 1000.0, 1.0
    rounds = LoggedActions(rewards, p, weights * p, q_logged=np.full(n, 0.5), q_target=np.full(n, 0.5))
    chosen = choose(rounds, name, GRIDS[name], BINARY)
    assert SHRINKAGES[name](weights, chosen)[4] == pytest.approx(500, rel=0.3)


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_light_weights_are_left_alone(world, name):
    rounds = world.sample(20_000, np.random.default_rng(0))
    chosen = choose(rounds, name, GRIDS[name], BINARY)
    assert chosen > 0.7 * rounds.weights.max() ** (2 if name == "dr_os" else 1)


def test_there_is_no_bias_to_trade_where_the_bracket_has_none():
    # Weights are 2; rewards of mean 3/4 are predicted as 1 - 2 r under the target and 0 of what was shown. With weights
    # shrunk to v the estimate is the mean of 1 - (2 - v) r, the bracket from 3 v / 4 to 1 - v / 4: from v = 3/2 on its
    # ends have changed places and the estimate lies between them. The error falls until v = 2.
    rewards, p = np.tile([1.0, 1.0, 1.0, 0.0], 10), np.full(40, 0.1)
    rounds = LoggedActions(rewards, p, 2 * p, q_logged=np.zeros(40), q_target=1 - 2 * rewards)
    assert choose(rounds, "dr_os", GRIDS["dr_os"], BINARY) == GRIDS["dr_os"][-1]


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_that_the_unshrunk_estimate_lies_nearby_is_no_reason_to_shrink(name):
    """Half of the target policy was never drawn: predictions and residuals agree, and yet nothing is known of it."""
    rng = np.random.default_rng(1)
    n = 5000
    p = np.full(n, 0.5)
    weights = rng.uniform(0.3, 0.7, n)
    q = np.full(n, 0.9)
    rewards = (rng.random(n) < 0.9).astype(float)
    rounds = LoggedActions(rewards, p, weights * p, q_logged=q, q_target=q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        found = evaluate(rounds, [name], rng=rng)[name]
    # What was drawn earned .9 / 2, what was not anything from 0 to 1 / 2.
    assert found.interval.low < 0.45 and found.interval.high > 0.95
    assert found.interval.high - found.interval.low == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_a_folds_rows_do_not_choose_for_themselves(world, name):
    """Rewards of one fold's users may change as they like: what their own weights are shrunk by stays."""
    rng = np.random.default_rng(0)
    rounds = world.sample(2000, rng, rows_per_user=2)
    folds = user_folds(rounds.clusters, N_FOLDS)
    heavy = np.where(folds == 2, rounds.target_p, np.where(rng.random(2000) < 0.002, 1.0, rounds.target_p))
    p = np.where((folds != 2) & (heavy == 1.0), 1e-3, rounds.propensities)
    parts = (rounds.clusters, rounds.q_logged, rounds.q_target)
    told = LoggedActions(rounds.rewards, p, heavy, *parts)
    changed = LoggedActions(np.where(folds == 2, 1 - rounds.rewards, rounds.rewards), p, heavy, *parts)
    ours, again = (chosen_by_others(data, name, BINARY) for data in (told, changed))
    for fold in range(N_FOLDS):
        assert set(ours[folds == fold]) == {choose(told.select(folds != fold), name, GRIDS[name], BINARY)}
    np.testing.assert_array_equal(ours[folds == 2], again[folds == 2])


def test_too_few_users_to_choose_by_others_are_said(world):
    rounds = world.sample(2, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"clipped_ips shrinks weights is chosen on other users.*ips, snips"):
        chosen_by_others(rounds, "clipped_ips", BINARY)


@pytest.mark.slow
@pytest.mark.parametrize(("n_actions", "greed"), [(10, 8.0), (100, 15.0), (1000, 30.0)])
def test_95_of_100_tuned_intervals_hold_the_truth_however_few_rows_count(n_actions, greed):
    """Policies learned from a reward model that is too sure of them, with logs of which fewer and fewer rows count.

    The 95% intervals may be too wide, as the bias is bounded and not known; they may not be too narrow.
    """
    rng = np.random.default_rng(0)
    n, n_logs = 2000, 100
    context = rng.normal(size=(n, 5))
    logits = context @ rng.normal(size=(5, n_actions)) + rng.normal(size=n_actions)
    logits = (logits - logits.mean()) / logits.std()
    truth, model = (1 / (1 + np.exp(-shown)) for shown in (logits, logits + rng.normal(size=logits.shape)))
    logging, target = np.exp(-2 * truth), np.exp(greed * model)
    logging, target = logging / logging.sum(axis=1, keepdims=True), target / target.sum(axis=1, keepdims=True)
    value, cumulative, rows = float((target * truth).sum(axis=1).mean()), logging.cumsum(axis=1), np.arange(n)
    held = {name: 0 for name in SHRINKING_ESTIMATORS}
    for _ in range(n_logs):
        action = (cumulative > rng.random((n, 1)) * cumulative[:, -1:]).argmax(axis=1)
        rounds = LoggedActions(
            rewards=(rng.random(n) < truth[rows, action]).astype(float),
            propensities=logging[rows, action],
            target_p=target[rows, action],
            q_logged=model[rows, action],
            q_target=(target * model).sum(axis=1),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlapWarning)
            for name, found in evaluate(rounds, list(held), rng=rng).items():
                held[name] += found.interval.low <= value <= found.interval.high
    # Of 100 logs at .95, 90 or fewer would be a chance of 1 in 35.
    assert min(held.values()) >= 91, held


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_losses_are_shrunk_as_much_as_gains(name):
    """Rewards and predictions with the opposite sign: the bias of shrinking is upwards then, and as large."""
    rng = np.random.default_rng(0)
    n = 4000
    weights, p = rng.lognormal(0, 1.5, n), np.full(n, 1e-6)
    rewards, q = (rng.random(n) < 0.6).astype(float), np.full(n, 0.3)
    gains, losses = (
        LoggedActions(sign * rewards, p, weights * p, q_logged=sign * q, q_target=sign * q) for sign in (1, -1)
    )
    chosen = choose(gains, name, GRIDS[name], BINARY)
    assert GRIDS[name][0] < chosen < GRIDS[name][-1]
    assert choose(losses, name, GRIDS[name], (-1.0, 0.0)) == chosen


@pytest.mark.parametrize("name", ["clipped_ips", "dr_os"])
def test_copies_of_a_users_rows_are_no_reason_to_shrink_less(name):
    """Of other users they would be: the variance is then a ninth, and the bias what it was."""
    rng = np.random.default_rng(0)
    n, times = 400, 9
    p, q = np.full(n * times, 1e-6), np.full(n * times, 0.3)
    weights, rewards = rng.lognormal(0, 1.5, n), (rng.random(n) < 0.6).astype(float).repeat(times)
    weights = (weights / weights.mean()).repeat(times)
    copied = LoggedActions(rewards, p, weights * p, np.arange(n).repeat(times), q_logged=q, q_target=q)
    chosen = choose(copied.select(np.arange(n) * times), name, GRIDS[name], BINARY)
    assert choose(copied, name, GRIDS[name], BINARY) == chosen
    assert choose(replace(copied, clusters=None), name, GRIDS[name], BINARY) > chosen
