"""Which policy to take by what rows of a log say of several: by their differences, row by row."""

from dataclasses import dataclass
from typing import final

import numpy as np

from rec.ope.estimate import Floats, Integers, Terms, cluster_codes, std_error


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Policies beside the one of the highest estimate.

    Attributes:
        chosen: the one to take. best: the one of the highest estimate.
        gaps: how much less each is estimated to be worth than the best, (M,).
        errors: standard errors of the gaps, paired by row and clustered by user, (M,).
    """

    chosen: int
    best: int
    gaps: Floats
    errors: Floats


def steadiest_of_the_best(contributions: Floats, users: Integers) -> Comparison:
    """Takes the first policy that lies no more than one standard error below the best.

    Candidates are ordered, the steadiest to learn first: that of the smallest cap on weights, of the strongest penalty.
    The error is that of the difference: what two policies share cancels row by row, so that they are told apart where
    their values are not.
    Source: Breiman et al. (1984), Classification and regression trees, section 3.4.3, the one-standard-error rule.
    Differs in: the error of the paired difference, clustered by user, takes the place of the best one's own.

    Args: contributions: what each row says each policy is worth, such as the terms of `rec.ope.dr`, by policies and
        predictions that have not seen its user, (n, M). users: who saw each row, at least two different ones, (n,).
    Raises: ValueError: for rows of one user, which have no standard error.
    """
    codes, n_users = cluster_codes(users)
    best = int(contributions.mean(axis=0).argmax())
    of_best = Terms.mean(contributions[:, best])
    gaps, errors = [], []
    for column in contributions.T:
        gap = of_best - Terms.mean(column)
        error = std_error(gap, codes, n_users)
        if error is None:
            raise ValueError(f"comparing policies needs rows of two users or more; found {n_users}")
        gaps.append(gap.value)
        errors.append(error)
    gaps, errors = np.array(gaps), np.array(errors)
    return Comparison(int(np.argmax(gaps <= errors)), best, gaps, errors)
