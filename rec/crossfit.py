"""Cross-fitting: every row is predicted by a model that has not seen its user."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError
from rec.hashing import stable_hash

Rows = NDArray[np.intp]


def user_folds(user_ids: Sequence[str] | NDArray[Any], n_folds: int, *, seed: int = 0) -> NDArray[np.int64]:
    """The fold of each row: that of its user, which depends on the id, n_folds and the seed alone.

    A user stays in the same fold in every process, on every day, and whatever the other rows are.

    Args: user_ids: (n,). n_folds: at least 2. seed: another one gives other folds.
    Returns: 0 to n_folds - 1, (n,).
    """
    if n_folds < 2:
        raise ValueError(f"cross-fitting needs at least 2 folds; found {n_folds}")
    users, row_user = np.unique(np.asarray(user_ids), return_inverse=True)
    folds = [stable_hash(f"{seed}\0{user}") % n_folds for user in users.tolist()]
    return np.array(folds, np.int64)[row_user]


def cross_fitted(folds: NDArray[np.integer[Any]], fit_predict: Callable[[Rows, Rows], NDArray[Any]]) -> NDArray[Any]:
    """Predictions for all rows, each by what was fitted on the other folds.

    Source: Chernozhukov et al. (2018), Double/debiased machine learning, doi:10.1111/ectj.12097.

    Args: folds: fold of each row, (n,). fit_predict: fits on the rows of its first argument and predicts those of its
        second, one entry each.
    Returns: in the order of the rows, (n, ...).
    Raises: DataError: when all rows are of one fold, which leaves nothing to fit on.
    """
    found = np.unique(folds)
    if len(found) < 2:
        raise DataError(f"cross-fitting needs rows of two folds or more; all {len(folds)} rows are of fold {found}")
    parts = [np.flatnonzero(folds == fold) for fold in found]
    predicted = [fit_predict(np.flatnonzero(folds != fold), part) for fold, part in zip(found, parts, strict=True)]
    return np.concatenate(predicted)[np.argsort(np.concatenate(parts))]
