"""How strongly to shrink weights, chosen on other users' rows than those it is used for."""

from typing import Final

import numpy as np

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.errors import DataError
from rec.ope.brackets import shrunk_bracket
from rec.ope.estimate import Floats, std_error
from rec.ope.estimators import SHRINKING_ESTIMATORS
from rec.ope.logged import LoggedActions

N_FOLDS: Final = 5
# Weights lie around 1; dr_os compares its parameter with their squares.
GRIDS: Final[dict[str, Floats]] = {
    "clipped_ips": np.geomspace(1.0, 1e4, 25),
    "switch_dr": np.append(0.0, np.geomspace(1.0, 1e4, 25)),
    "dr_os": np.append(0.0, np.geomspace(1e-2, 1e8, 41)),
}


def choose(rounds: LoggedActions, name: str, grid: Floats, reward_range: tuple[float, float]) -> float:
    """The parameter with the least upper bound on the mean squared error, estimated on these rounds.

    mse <= std_error^2 + bias^2, and the bias is at most the distance from the estimate to the farther end of its
    bracket. That the unshrunk estimate lies nearby says nothing of the bias: where weights are heavy it has usually
    missed the rare rows that matter, and shrinking looks free. What the bracket lacks of the target policy, it knows.
    Source: Su et al. (2020), model selection by an upper bound on the bias, arXiv:1907.09623. Differs in: the bound, of
    Bottou et al. (2013); the variance is clustered by user.
    """
    codes, n_clusters = rounds.codes()
    estimator = SHRINKING_ESTIMATORS[name]

    def mse_at_most(parameter: float) -> float:
        value = estimator(rounds, parameter)
        error = std_error(value, codes, n_clusters)
        if error is None:
            raise DataError("choosing a parameter needs at least two users")
        low, high = shrunk_bracket(rounds, name, value, parameter, reward_range=reward_range).ends
        bias = max(high.value - value.value, value.value - low.value)
        return error**2 + max(bias, 0.0) ** 2

    return float(grid[np.argmin([mse_at_most(parameter) for parameter in grid])])


def chosen_by_others(rounds: LoggedActions, name: str, reward_range: tuple[float, float]) -> Floats:
    """The parameter of each row: the same for all rows of a fold of users, as the other folds chose it, (n,).

    Args: rounds: n rows. name: of an estimator of SHRINKING_ESTIMATORS. reward_range: least and greatest reward
        possible.
    Raises: DataError: when there are too few users.
    """
    users = np.arange(len(rounds)) if rounds.clusters is None else rounds.clusters
    folds = user_folds(users, N_FOLDS)
    fewest = min(len(np.unique(users[folds != fold])) for fold in np.unique(folds))
    if fewest < 2:
        raise DataError(
            f"how strongly {name} shrinks weights is chosen on other users, of whom at least two are needed for every "
            f"fold; found {fewest} beside one: log more users, give `parameters`, or take estimators without any: ips, "
            "snips, dr, sndr"
        )

    def of_fold(others: Rows, own: Rows) -> Floats:
        return np.full(len(own), choose(rounds.select(others), name, GRIDS[name], reward_range))

    return cross_fitted(folds, of_fold)
