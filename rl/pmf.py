"""Probabilistic matrix factorisation: ratings as means, biases and products of factors."""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.errors import DataError, TrainingError
from rl.config import PMFConfig

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

LOWEST: Final = 1.0
HIGHEST: Final = 5.0


class RatingModel(Protocol):
    """Says how users would rate items."""

    def predict(self, users: Integers, items: Integers) -> NDArray[np.float64]:
        """Expected ratings within the scale; positions, of shapes that broadcast."""
        ...

    def predict_all(self, users: Integers) -> NDArray[np.float64]:
        """Expected ratings of all items, (S,) -> (S, N)."""
        ...


@final
@dataclass(frozen=True, slots=True)
class FitReport:
    """How a model was fitted.

    Attributes: valid_rmse: after each epoch, on the ratings held out; empty where none were. epochs: of the final fit,
        on all ratings.
    """

    valid_rmse: tuple[float, ...]
    epochs: int


@final
@dataclass(frozen=True, slots=True)
class MatrixFactorisation:
    """rating(u, i) = mean + b_u + b_i + p_u . q_i, kept within the scale.

    A user or item without a rating has a bias and factors of zero.

    Attributes:
        mean: of all ratings.
        user_bias, item_bias: (U,) and (N,).
        user_factors, item_factors: (U, D) and (N, D).
        report: how it was fitted.
    """

    mean: float
    user_bias: NDArray[np.float64]
    item_bias: NDArray[np.float64]
    user_factors: NDArray[np.float64]
    item_factors: NDArray[np.float64]
    report: FitReport

    @classmethod
    def fit(cls, ratings: Interactions, config: PMFConfig) -> "MatrixFactorisation":
        """The maximum a posteriori by stochastic gradient descent, one rating after the other in random order.

        Minimises sum (rating - prediction)^2 + regularization (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2) over the ratings. How
        many epochs is chosen on the latest ratings of each user, held out at first; the model is then fitted to all.

        Source: Salakhutdinov and Mnih (2007), equation 4, with biases as in Koren et al. (2009), equation 5,
        doi:10.1109/MC.2009.263. Differs from the former in: a vector is regularised once for each of its ratings, as in
        the latter, where equation 4 does so once for each vector, however many ratings it has.

        Args: ratings: all that the model may know. config: size, steps and seed.
        Raises: DataError: for a log without ratings. TrainingError: when the descent diverges.
        """
        held_out = latest_of_each_user(ratings, config.validation_fraction)
        errors: list[float] = []
        descent = _Descent(ratings.take(~held_out), config)
        best = 0
        while len(errors) < config.max_epochs and len(errors) - best <= config.patience:
            descent.epoch()
            model = descent.model(FitReport((), 0))
            errors.append(rmse(model, ratings.take(held_out)) if held_out.any() else 0.0)
            if not np.isfinite(errors[-1]):
                raise TrainingError(f"the fit diverges in epoch {len(errors)}; use a lower learning_rate")
            best = int(np.argmin(errors)) + 1
        epochs = best if held_out.any() else config.max_epochs
        descent = _Descent(ratings, config)
        for _ in range(epochs):
            descent.epoch()
        return descent.model(FitReport(tuple(errors) if held_out.any() else (), epochs))

    def predict(self, users: Integers, items: Integers) -> NDArray[np.float64]:
        """Expected ratings within the scale; positions, of shapes that broadcast."""
        product = (self.user_factors[users] * self.item_factors[items]).sum(axis=-1)
        return np.clip(self.mean + self.user_bias[users] + self.item_bias[items] + product, LOWEST, HIGHEST)

    def predict_all(self, users: Integers) -> NDArray[np.float64]:
        """Expected ratings of all items, (S,) -> (S, N)."""
        product = self.user_factors[users] @ self.item_factors.T
        return np.clip(self.mean + self.user_bias[users, None] + self.item_bias + product, LOWEST, HIGHEST)


def digest_of(ratings: Interactions) -> str:
    """SHA-256 of who rated what how, by positions and whatever the order of rows: tells what was learnt from.

    Raises: DataError: for a log without ratings.
    """
    rated, order = _required(ratings), np.lexsort((ratings.item, ratings.user))
    found = hashlib.sha256(f"{ratings.n_users} {ratings.n_items}\n".encode())
    for values, kind in ((ratings.user, "<i8"), (ratings.item, "<i8"), (rated, "<f8")):
        found.update(values[order].astype(kind).tobytes())
    return found.hexdigest()


def rmse(model: RatingModel, ratings: Interactions) -> float:
    """Root of the mean squared error of predicted ratings."""
    error = model.predict(ratings.user, ratings.item) - _required(ratings)
    return float(np.sqrt(np.mean(error**2)))


def latest_of_each_user(ratings: Interactions, fraction: float) -> NDArray[np.bool_]:
    """Which rows are among the latest floor(fraction n) of their user's n, ties in the order of the file, (n,)."""
    order = np.lexsort((ratings.timestamp, ratings.user))
    counts = np.bincount(ratings.user, minlength=ratings.n_users)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[ratings.user[order]]
    n = counts[ratings.user]
    return place >= n - np.floor(fraction * n)


def _required(ratings: Interactions) -> NDArray[np.float64]:
    if ratings.rating is None:
        raise DataError("ratings are required; this log has actions", field="rating")
    return ratings.rating.astype(np.float64)


class _Descent:
    """Parameters on their way down."""

    def __init__(self, ratings: Interactions, config: PMFConfig) -> None:
        if not len(ratings):
            raise TrainingError("there are no ratings to learn from")
        self._rng = np.random.default_rng(config.seed)
        self._config = config
        self._rows = ratings.user.astype(np.int64), ratings.item.astype(np.int64), _required(ratings)
        self._mean = float(self._rows[2].mean())
        self._biases = np.zeros(ratings.n_users), np.zeros(ratings.n_items)
        known_users = np.bincount(ratings.user, minlength=ratings.n_users) > 0
        known_items = np.bincount(ratings.item, minlength=ratings.n_items) > 0
        self._factors = self._first_factors(known_users), self._first_factors(known_items)
        self._epochs = 0

    def _first_factors(self, known: NDArray[np.bool_]) -> NDArray[np.float64]:
        drawn = self._rng.normal(0, self._config.init_std, (len(known), self._config.dim))
        return np.where(known[:, None], drawn, 0.0)

    def epoch(self) -> None:
        """One pass over the ratings, each epoch in smaller steps."""
        config = self._config
        step = config.learning_rate * config.decay**self._epochs
        order = self._rng.permutation(len(self._rows[0]))
        _pass(order, *self._rows, self._mean, *self._biases, *self._factors, step, config.regularization)
        self._epochs += 1

    def model(self, report: FitReport) -> MatrixFactorisation:
        """The model as it is; it goes on changing with the descent."""
        return MatrixFactorisation(self._mean, *self._biases, *self._factors, report)


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _pass(
    order: Integers,
    users: Integers,
    items: Integers,
    ratings: Floats,
    mean: float,
    user_bias: Floats,
    item_bias: Floats,
    user_factors: Floats,
    item_factors: Floats,
    step: float,
    regularization: float,
) -> None:
    """One step of descent for each rating in this order, in place."""
    for row in order:
        user, item = users[row], items[row]
        p, q = user_factors[user], item_factors[item]
        error = ratings[row] - mean - user_bias[user] - item_bias[item]
        for d in range(len(p)):
            error -= p[d] * q[d]
        user_bias[user] += step * (error - regularization * user_bias[user])
        item_bias[item] += step * (error - regularization * item_bias[item])
        for d in range(len(p)):
            of_user = p[d]
            p[d] += step * (error * q[d] - regularization * of_user)
            q[d] += step * (error * of_user - regularization * q[d])
