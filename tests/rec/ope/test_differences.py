"""Differences between two policies, or from what was logged: paired, and of the overlap of the worse side."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from rec.errors import ConfigError, DataError
from rec.ope import (
    IntervalSettings,
    LoggedActions,
    LoggedSlates,
    OverlapWarning,
    evaluate,
    evaluate_difference,
    evaluate_over_logged,
    evaluate_slate_difference,
)
from rec.ope.estimators import dr
from rec.ope.intervals import bootstrap_interval, empirical_bernstein_interval


def test_the_difference_to_itself_is_nothing(world):
    rounds = world.sample(500, np.random.default_rng(0))
    for name in ("dr", "snips", "dr_os"):
        same = evaluate_difference(rounds, rounds, name, rng=np.random.default_rng(1))
        assert same.value == pytest.approx(0, abs=1e-12)
        assert same.std_error == pytest.approx(0, abs=1e-12)
        # The bias of shrinking need not cancel.
        assert (same.interval.high > 1e-3) == (name == "dr_os")


def _against(world, other, rounds):
    """The same rows with the probabilities and predictions of another policy; contexts are found by propensity."""
    order = world.logging.argsort(axis=None)
    found = order[np.searchsorted(world.logging.reshape(-1)[order], rounds.propensities)]
    context, action = np.unravel_index(found, world.logging.shape)
    return LoggedActions(
        rounds.rewards,
        rounds.propensities,
        other[context, action],
        q_logged=rounds.q_logged,
        q_target=(other * world.model).sum(axis=1)[context],
    )


def test_the_difference_from_what_was_logged_is_paired_with_the_rewards(world):
    rounds = world.sample(500, np.random.default_rng(0))
    unchanged = replace(rounds, target_p=rounds.propensities)
    names, rng = ["ips", "snips", "dr", "dr_os"], np.random.default_rng(1)
    found = evaluate_over_logged(rounds, names, rng=rng)
    for name in ("ips", "snips"):
        paired = evaluate_difference(rounds, unchanged, name, rng=rng)
        assert found[name].value == pytest.approx(paired.value)
        assert found[name].std_error == pytest.approx(paired.std_error)
        assert found[name].std_error < evaluate(rounds, [name], rng=rng)[name].std_error
    earned = rounds.rewards.mean()
    for name, estimate in evaluate(rounds, names, rng=rng).items():
        assert found[name].value == pytest.approx(estimate.value - earned)
    same = evaluate_over_logged(unchanged, ["ips"], rng=rng)["ips"]
    assert (same.value, same.std_error) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_the_difference_from_what_was_logged_is_bounded_by_rewards_and_weights(world):
    rounds = world.sample(500, np.random.default_rng(0))
    bounded = IntervalSettings("empirical_bernstein", reward_range=(0, 1), weight_bound=20)
    rng = np.random.default_rng(1)
    wide = evaluate_over_logged(rounds, ["ips"], rng=rng, interval=bounded)["ips"].interval
    assert wide.method == "empirical_bernstein"
    rows = (rounds.weights - 1) * rounds.rewards
    at_hand = empirical_bernstein_interval(rows, *rounds.codes(), bounds=(-1, 20), level=0.95)
    assert (wide.low, wide.high) == (pytest.approx(at_hand.low), pytest.approx(at_hand.high))
    with pytest.raises(ConfigError, match="snips"):
        evaluate_over_logged(rounds, ["snips"], rng=rng, interval=bounded)


def test_differences_are_paired_and_hold_the_truth(world):
    # A challenger that mixes a little of the log's policy into the target differs little from it: pairing must show.
    mixed = 0.9 * world.target + 0.1 * world.logging
    truth = float(((mixed - world.target) * world.q).sum(axis=1).mean())
    rng = np.random.default_rng(5)
    hits, errors, unpaired = 0, [], []
    for _ in range(200):
        champion = world.sample(500, rng)
        challenger = _against(world, mixed, champion)
        found = evaluate_difference(challenger, champion, rng=rng)
        hits += found.interval.low <= truth <= found.interval.high
        errors.append(found.std_error)
        one = evaluate(champion, ["dr"], rng=rng)["dr"].std_error
        unpaired.append(one * np.sqrt(2))
    assert 0.91 <= hits / 200 <= 0.985
    assert np.mean(errors) < 0.3 * np.mean(unpaired)


def test_a_difference_without_bias_is_resampled_once(world):
    champion = world.sample(500, np.random.default_rng(0))
    challenger = _against(world, world.logging, champion)
    rng, settings = np.random.default_rng(3), IntervalSettings("bootstrap", n_resamples=300)
    found = evaluate_difference(challenger, champion, "dr", rng=rng, interval=settings).interval
    again, (codes, n_clusters) = np.random.default_rng(3), champion.codes()
    terms = dr(challenger) - dr(champion)
    assert found == bootstrap_interval(terms, codes, n_clusters, level=0.95, n_resamples=300, rng=again)
    assert rng.bit_generator.state == again.bit_generator.state


def test_a_difference_takes_the_worse_of_both_overlaps(world):
    champion = world.sample(500, np.random.default_rng(0))
    challenger = _against(world, world.logging, champion)
    assert challenger.weights == pytest.approx(1)
    found = evaluate_difference(challenger, champion, "ips", rng=np.random.default_rng(0))
    alone = evaluate(champion, ["ips"], rng=np.random.default_rng(0))["ips"]
    assert (found.ess, found.max_weight) == (alone.ess, alone.max_weight)


def test_differences_of_other_rows_are_refused(world):
    rounds, rng = world.sample(100, np.random.default_rng(0)), np.random.default_rng(0)
    moved = rounds.select(np.roll(np.arange(100), 1))
    for other in (rounds.select(np.arange(99)), moved, replace(rounds, propensities=rounds.propensities / 2)):
        with pytest.raises(DataError, match="same rows"):
            evaluate_difference(rounds, other, rng=rng)
    with pytest.raises(DataError, match="same users") as refused:
        evaluate_difference(rounds, replace(rounds, clusters=np.arange(100) // 2), rng=rng)
    assert refused.value.column == "clusters"
    p = np.full((100, 2), 0.5)
    slates = [LoggedSlates(rewards, p, p) for rewards in (np.zeros((100, 2)), np.ones((100, 2)))]
    with pytest.raises(DataError, match="same rows"):
        evaluate_slate_difference(*slates, "cascade", rng=rng)


@pytest.mark.parametrize(
    ("challenger", "champion", "both"), [(0.99, 0.96, 0.96), (0.96, 0.99, 0.96), (0.96, None, None), (None, 0.96, None)]
)
def test_a_difference_has_the_support_of_the_side_that_has_less(world, challenger, champion, both):
    rounds = world.sample(500, np.random.default_rng(0))
    sides = [replace(rounds, support=support) for support in (challenger, champion)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        assert evaluate_difference(*sides, "ips", rng=np.random.default_rng(0)).support == both
