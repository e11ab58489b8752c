"""Estimates of what one policy is worth, by any of the estimators."""

from collections.abc import Mapping, Sequence

import numpy as np

from rec.errors import DataError
from rec.ope.arguments import (
    refuse_bernstein,
    refuse_other_rows,
    refuse_unbounded,
    refuse_unknown,
    refuse_wrong_parameters,
)
from rec.ope.brackets import Bracket, refuse_beyond, shrunk_bracket
from rec.ope.estimate import Estimate, Floats, Integers, Terms, std_error
from rec.ope.estimators import BOUNDED, ESTIMATORS, NEED_PREDICTIONS, SHRINKING_ESTIMATORS, contribution_bounds
from rec.ope.interval_settings import IntervalSettings, interval_around
from rec.ope.intervals import student_t_interval
from rec.ope.logged import LoggedActions, LoggedSlates
from rec.ope.overlap import Overlap
from rec.ope.slates import SLATE_ESTIMATORS
from rec.ope.support import MIN_ESS
from rec.ope.tuning import chosen_by_others


def possible_estimators(rounds: LoggedActions, settings: IntervalSettings) -> list[str]:
    """The estimators that the rounds have predictions for, and that have an interval of the kind asked for."""
    predicted = rounds.q_logged is not None and rounds.q_target is not None
    known = BOUNDED if settings.method == "empirical_bernstein" else (*ESTIMATORS, *SHRINKING_ESTIMATORS)
    return [name for name in known if predicted or name not in NEED_PREDICTIONS]


def evaluate(
    rounds: LoggedActions,
    estimators: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    parameters: Mapping[str, float] | None = None,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> dict[str, Estimate]:
    """What the target policy is worth a round, by several estimators.

    Args:
        rounds: the log, with the target's probabilities.
        estimators: names of ESTIMATORS and SHRINKING_ESTIMATORS. None: `possible_estimators`.
        rng: of the bootstrap's resamples.
        parameters: of shrinking estimators, by name; those not given are chosen by cross-fitting over users.
        interval: None: Student's t, 95%.
        min_ess: effective sample size below which it warns.

    Warns: OverlapWarning: where the log holds little about the target policy.
    Raises: SupportError: when the log could show less than 95% of the target's choices. DataError: when an estimator
        needs predictions and there are none. ConfigError: for a name that is none or stands there twice, and for a
        parameter that is no number of 0 or more, or of an estimator not asked for.
    """
    refuse_other_rows(LoggedActions, rounds)
    settings = interval or IntervalSettings()
    given = parameters or {}
    estimators = possible_estimators(rounds, settings) if estimators is None else estimators
    refuse_unknown(estimators, (*ESTIMATORS, *SHRINKING_ESTIMATORS))
    refuse_wrong_parameters(given, estimators)
    if settings.method == "empirical_bernstein":
        refuse_unbounded(estimators, given)
    overlap = Overlap.of_actions(rounds, min_ess)
    found: dict[str, Estimate] = {}
    for name in estimators:
        bracket = bracket_of(rounds, name, given.get(name), settings)
        found[name] = estimate_of(bracket, name, overlap, settings, rng)
    return found


def evaluate_slates(
    slates: LoggedSlates,
    estimators: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> dict[str, Estimate]:
    """What the target policy is worth a slate, by estimators of SLATE_ESTIMATORS; otherwise as `evaluate`.

    Effective sample size and largest weight are those of whole slates, the product of all their weights; for the
    position-wise forms, the least and the largest of any position. So is support: the share of whole slates, or for the
    position-wise forms of choices at single positions. By default the cascade forms: `cascade_dr` where there are
    predictions, and no position-wise form, which assumes more.
    """
    refuse_other_rows(LoggedSlates, slates)
    settings = interval or IntervalSettings()
    if estimators is None:
        estimators = ["cascade", "sn_cascade", *(["cascade_dr"] if slates.q_logged is not None else [])]
    refuse_unknown(estimators, SLATE_ESTIMATORS)
    refuse_bernstein(settings)
    found: dict[str, Estimate] = {}
    for name in estimators:
        overlap = Overlap.of_slates(slates, name, min_ess)
        found[name] = estimate_of(Bracket.unbiased(SLATE_ESTIMATORS[name](slates)), name, overlap, settings, rng)
    return found


def logged_value(rewards: Floats, codes: Integers, n_clusters: int, *, level: float = 0.95) -> Estimate:
    """What the logging policy earned a row: the plain mean, whose weights are all 1, with an interval by Student's t.

    Args: rewards: of rounds, or of whole slates, (n,). codes: user of each row, 0..C-1, (n,). n_clusters: C, users.
    """
    terms = Terms.mean(rewards)
    error = std_error(terms, codes, n_clusters)
    return Estimate(
        value=terms.value,
        std_error=error,
        interval=None if error is None else student_t_interval(terms.value, error, n_clusters, level=level),
        n=len(terms),
        n_clusters=n_clusters,
        ess=float(len(terms)),
        max_weight=1.0,
        support=1.0,
        estimator="logged",
    )


def bracket_of(rounds: LoggedActions, name: str, parameter: float | None, settings: IntervalSettings) -> Bracket:
    """What one estimator says, and how far its bias may reach; a shrinking one without a parameter chooses it."""
    if name in ESTIMATORS:
        bounds = None
        if settings.reward_range is not None and settings.weight_bound is not None:
            refuse_beyond(rounds, settings.reward_range, settings.weight_bound)
            bounds = contribution_bounds(name, reward_range=settings.reward_range, weight_bound=settings.weight_bound)
        return Bracket.unbiased(ESTIMATORS[name](rounds), bounds)
    reward_range = settings.reward_range or (float(rounds.rewards.min()), float(rounds.rewards.max()))
    used = chosen_by_others(rounds, name, reward_range) if parameter is None else parameter
    weight_bound = np.inf if settings.weight_bound is None else settings.weight_bound
    value = SHRINKING_ESTIMATORS[name](rounds, used)
    return shrunk_bracket(rounds, name, value, used, reward_range=reward_range, weight_bound=weight_bound)


def estimate_of(
    bracket: Bracket, name: str, overlap: Overlap, settings: IntervalSettings, rng: np.random.Generator
) -> Estimate:
    """The estimate of a bracket, with its error and interval, and what the log says about the policy."""
    terms = bracket.value
    if (terms.denominator.sum(axis=0) <= 0).any():
        raise DataError(
            f"{name} divides by the sum of weights, which is 0: the target policy would have shown nothing of what was "
            "logged"
        )
    return Estimate(
        value=terms.value,
        std_error=std_error(terms, overlap.codes, overlap.n_clusters),
        interval=None if overlap.n_clusters < 2 else interval_around(bracket, overlap, settings, rng),
        n=len(terms),
        n_clusters=overlap.n_clusters,
        ess=overlap.ess,
        max_weight=overlap.max_weight,
        support=overlap.support,
        estimator=name,
    )
