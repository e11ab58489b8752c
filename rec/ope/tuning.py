"""How strongly to shrink weights, chosen on other users' rows than those it is used for."""

from typing import Final

import numpy as np

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.errors import DataError
from rec.ope.estimate import Floats, Terms, std_error
from rec.ope.estimators import ShrinkingEstimator
from rec.ope.logged import LoggedActions

N_FOLDS: Final = 5
# Weights lie around 1; dr_os compares its parameter with their squares. Infinity leaves the weights as they are.
GRIDS: Final[dict[str, Floats]] = {
    "clipped_ips": np.append(np.geomspace(1.0, 1e4, 25), np.inf),
    "switch_dr": np.concatenate([[0.0], np.geomspace(1.0, 1e4, 25), [np.inf]]),
    "dr_os": np.concatenate([[0.0], np.geomspace(1e-2, 1e8, 41), [np.inf]]),
}


def choose(rounds: LoggedActions, estimator: ShrinkingEstimator, grid: Floats) -> float:
    """The parameter with the least estimated mean squared error on these rounds.

    mse = std_error^2 + (mean of the shrunk minus the unshrunk contributions)^2. The second term's own noise makes it
    too large by the variance that shrinking removes, so weights are shrunk only where that pays clearly.
    Source: Su et al. (2020), model selection, arXiv:1907.09623; Wang et al. (2017), arXiv:1612.01205. Differs in:
    the bias is estimated as it stands, without an upper bound; the variance is clustered by user.
    """
    codes, n_clusters = rounds.codes()
    unshrunk = estimator(rounds, np.inf).value

    def mse(parameter: float) -> float:
        terms = estimator(rounds, parameter)
        error = std_error(terms, codes, n_clusters)
        if error is None:
            raise DataError("choosing a parameter needs at least two users")
        return error**2 + (terms.value - unshrunk) ** 2

    return float(grid[np.argmin([mse(parameter) for parameter in grid])])


def shrunk_by_others(rounds: LoggedActions, estimator: ShrinkingEstimator, grid: Floats) -> Terms:
    """Contributions of every fold of users, shrunk as the other folds chose; in the order of the rounds."""
    users = np.arange(len(rounds)) if rounds.clusters is None else rounds.clusters
    folds = user_folds(users, N_FOLDS)
    fewest = min(len(np.unique(users[folds != fold])) for fold in np.unique(folds))
    if fewest < 2:
        raise DataError(
            f"how strongly {estimator.__name__} shrinks weights is chosen on other users, of whom at least two are "
            f"needed for every fold; found {fewest} beside one: log more users, give `parameters`, or take estimators "
            "without any: ips, snips, dr, sndr"
        )

    def shrink(others: Rows, own: Rows) -> Floats:
        return estimator(rounds.select(own), choose(rounds.select(others), estimator, grid)).numerator

    numerator = cross_fitted(folds, shrink)
    return Terms(numerator, np.ones_like(numerator))
