"""Estimates of the difference of two policies, from the same rows."""

from collections.abc import Sequence

import numpy as np

from rec.errors import DataError
from rec.ope.arguments import (
    refuse_bernstein,
    refuse_other_rows,
    refuse_unbounded,
    refuse_unknown,
    refuse_wrong_parameters,
)
from rec.ope.brackets import Bracket
from rec.ope.estimate import Estimate, Terms
from rec.ope.estimators import ESTIMATORS, SHRINKING_ESTIMATORS
from rec.ope.evaluation import bracket_of, estimate_of
from rec.ope.interval_settings import IntervalSettings
from rec.ope.logged import LoggedActions, LoggedSlates
from rec.ope.overlap import Overlap
from rec.ope.slates import SLATE_ESTIMATORS
from rec.ope.support import MIN_ESS


def evaluate_difference(
    challenger: LoggedActions,
    champion: LoggedActions,
    estimator: str = "dr",
    *,
    rng: np.random.Generator,
    parameter: float | None = None,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> Estimate:
    """How much more the challenger is worth a round than the champion, from the same rows.

    What both share cancels row by row, so the error is that of where they differ. The lower end of the two-sided 95%
    interval is the one-sided 97.5% lower bound. Effective sample size and support are the smaller of the two, the
    largest weight the larger. Of a shrinking estimator the interval allows for the bias on both sides, which does not
    cancel: for policies that are alike take `dr`.

    Args:
        challenger: the log, with the challenger's probabilities and predictions.
        champion: the same rows, with the champion's.
        estimator: a name of ESTIMATORS or SHRINKING_ESTIMATORS.
        rng: of the bootstrap's resamples.
        parameter: of a shrinking estimator; None: chosen by cross-fitting over users.
        interval: None: Student's t, 95%.
        min_ess: effective sample size below which it warns.

    Raises: DataError: when rows, rewards, propensities or users are not the same on both sides.
    """
    refuse_other_rows(LoggedActions, challenger, champion)
    settings = interval or IntervalSettings()
    refuse_unknown([estimator], (*ESTIMATORS, *SHRINKING_ESTIMATORS))
    refuse_wrong_parameters({} if parameter is None else {estimator: parameter}, [estimator])
    refuse_bernstein(settings)
    _refuse_unpaired(challenger, champion)
    one, other = (Overlap.of_actions(side, min_ess) for side in (challenger, champion))
    ours, theirs = (bracket_of(side, estimator, parameter, settings) for side in (challenger, champion))
    return estimate_of(ours - theirs, f"{estimator} difference", one.worse_of(other), settings, rng)


def evaluate_slate_difference(
    challenger: LoggedSlates,
    champion: LoggedSlates,
    estimator: str = "cascade_dr",
    *,
    rng: np.random.Generator,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> Estimate:
    """How much more the challenger is worth a slate than the champion; as `evaluate_difference`."""
    refuse_other_rows(LoggedSlates, challenger, champion)
    settings = interval or IntervalSettings()
    refuse_unknown([estimator], SLATE_ESTIMATORS)
    refuse_bernstein(settings)
    _refuse_unpaired(challenger, champion)
    sides = (challenger, champion)
    one, other = (Overlap.of_slates(side, estimator, min_ess) for side in sides)
    ours, theirs = (Bracket.unbiased(SLATE_ESTIMATORS[estimator](side)) for side in sides)
    return estimate_of(ours - theirs, f"{estimator} difference", one.worse_of(other), settings, rng)


def evaluate_over_logged(
    rounds: LoggedActions,
    estimators: Sequence[str],
    *,
    rng: np.random.Generator,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> dict[str, Estimate]:
    """How much more the target is worth a round than the logging policy, whose worth is the mean of what was earned.

    Each estimator less the rewards, row by row; otherwise as `evaluate_difference`, which takes the same estimator of
    both policies, and so predictions under the logging policy, too.

    Args: as of `evaluate`; estimators: names of ESTIMATORS and SHRINKING_ESTIMATORS.
    """
    refuse_other_rows(LoggedActions, rounds)
    settings = interval or IntervalSettings()
    refuse_unknown(estimators, (*ESTIMATORS, *SHRINKING_ESTIMATORS))
    if settings.method == "empirical_bernstein":
        refuse_unbounded(estimators, {})
    overlap = Overlap.of_actions(rounds, min_ess)
    earned = Bracket.unbiased(Terms.mean(rounds.rewards), settings.reward_range)
    return {
        name: estimate_of(
            bracket_of(rounds, name, None, settings) - earned, f"{name} difference", overlap, settings, rng
        )
        for name in estimators
    }


def _refuse_unpaired(challenger: LoggedActions | LoggedSlates, champion: LoggedActions | LoggedSlates) -> None:
    for name in ("rewards", "propensities"):
        a, b = getattr(challenger, name), getattr(champion, name)
        if a.shape != b.shape:
            raise DataError(f"a paired difference needs the same rows on both sides; found {len(a)} and {len(b)}")
        if (a != b).any():
            row = int(np.argwhere(a != b)[0][0])
            raise DataError(
                f"a paired difference needs the same rows on both sides; found {a[row]} and {b[row]}",
                row=row,
                column=name,
            )
    if not np.array_equal(challenger.codes()[0], champion.codes()[0]):
        raise DataError("a paired difference needs the same users on both sides, in the same order", column="clusters")
