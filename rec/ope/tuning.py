"""How strongly to shrink weights, chosen on other users' rows than those it is used for."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError
from rec.ope.estimate import Floats, Terms, cluster_codes, std_error
from rec.ope.estimators import ShrinkingEstimator
from rec.ope.logged import LoggedActions

N_FOLDS: Final = 5
# Weights lie around 1; dr_os compares its parameter with their squares. Infinity leaves the weights as they are.
GRIDS: Final[dict[str, Floats]] = {
    "clipped_ips": np.append(np.geomspace(1.0, 1e4, 25), np.inf),
    "switch_dr": np.concatenate([[0.0], np.geomspace(1.0, 1e4, 25), [np.inf]]),
    "dr_os": np.concatenate([[0.0], np.geomspace(1e-2, 1e8, 41), [np.inf]]),
}


def user_folds(clusters: NDArray[Any], n_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for every row, all rows of a user in the same one, folds of equally many users; (n,) to (n,).

    Raises: DataError: when there are fewer users than folds.
    """
    codes, n_clusters = cluster_codes(clusters)
    if n_clusters < n_folds:
        raise DataError(f"{n_folds} folds need as many users or more; found {n_clusters}")
    return rng.permutation(np.arange(n_clusters) % n_folds)[codes]


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


def cross_fitted(
    rounds: LoggedActions,
    estimator: ShrinkingEstimator,
    grid: Floats,
    *,
    rng: np.random.Generator,
    n_folds: int = N_FOLDS,
) -> tuple[Terms, tuple[float, ...]]:
    """Contributions of every fold of users, shrunk as the other folds chose.

    Returns: the terms in the order of the rounds, and the parameter of each fold.
    """
    codes, _ = rounds.codes()
    folds = user_folds(codes, n_folds, rng)
    numerator = np.empty((len(rounds), 1))
    chosen = tuple(choose(rounds.select(folds != fold), estimator, grid) for fold in range(n_folds))
    for fold, parameter in enumerate(chosen):
        rows = folds == fold
        numerator[rows] = estimator(rounds.select(rows), parameter).numerator
    return Terms(numerator, np.ones_like(numerator)), chosen
