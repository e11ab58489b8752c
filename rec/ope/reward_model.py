"""Models of the reward, fitted on other users than those they predict for."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rec.crossfit import cross_fitted
from rec.errors import DataError
from rec.ope.estimate import Floats

Predict = Callable[[Floats], Floats]
FitActionRewards = Callable[[Floats, NDArray[np.int64], Floats, int], Predict]

_L2: Final = 1.0
_NEWTON_STEPS: Final = 100
_CONVERGED: Final = 1e-9


def ridge(features: Floats, rewards: Floats) -> Predict:
    """Linear regression with an intercept, features standardised, squared weights penalised by 1; (n, F) and (n,)."""
    no_action = np.zeros(len(rewards), np.int64)
    predict = ridge_per_action(features, no_action, rewards, 1)
    return lambda others: predict(others)[:, 0]


def ridge_per_action(context: Floats, actions: NDArray[np.int64], rewards: Floats, n_actions: int) -> Predict:
    """A linear regression on the context for each action; an action never logged predicts the mean reward.

    Deviations from the mean reward are regressed, so the intercept is shrunk towards it as the weights are towards 0.

    Args: context: (n, F). actions: (n,). rewards: (n,). n_actions: A.
    Returns: predictions of contexts (m, F) as (m, A).
    """
    design = _standardised(context)
    inputs, mean = design(context), rewards.mean()
    weights = np.zeros((n_actions, inputs.shape[1]))
    for action in np.unique(actions):
        rows = actions == action
        own = inputs[rows]
        gram = own.T @ own + _L2 * np.eye(own.shape[1])
        weights[action] = np.linalg.solve(gram, own.T @ (rewards[rows] - mean))
    return lambda others: mean + design(others) @ weights.T


def logistic_per_action(context: Floats, actions: NDArray[np.int64], rewards: Floats, n_actions: int) -> Predict:
    """A logistic regression on the context for each action.

    Minimises the sum of cross-entropies plus half the squared weights. Intercepts are free, else rare rewards would be
    overestimated; what keeps them finite is one more round of each action, at the mean context, that earned the mean
    reward. So the sum of an action's predictions misses that of its rewards by less than 1, by next to nothing over all
    actions, and an action never logged predicts the mean reward.

    Args: context: (n, F). actions: (n,). rewards: in [0, 1], (n,). n_actions: A.
    Returns: predictions of contexts (m, F) as (m, A).
    Raises: DataError: for a reward outside [0, 1].
    """
    wrong = (rewards < 0) | (rewards > 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"logistic regression needs rewards in [0, 1]; found {rewards[row]:.12g}: take ridge_per_action",
            row=row,
            column="reward",
        )
    design = _standardised(context)
    inputs = design(context)
    mean = float(np.clip(rewards.mean(), 1e-6, 1 - 1e-6))
    start = np.zeros(inputs.shape[1])
    start[-1] = np.log(mean / (1 - mean))
    weights = np.tile(start, (n_actions, 1))
    for action in np.unique(actions):
        rows = actions == action
        weights[action] = _newton(inputs[rows], rewards[rows], start, mean)
    return lambda others: _sigmoid(design(others) @ weights.T)


def _newton(inputs: Floats, rewards: Floats, start: Floats, mean: float) -> Floats:
    """Weights that minimise the penalised cross-entropy of sigmoid(inputs @ weights), the last the intercept; (F,).

    Newton's steps, halved until they improve; the objective is strictly convex, so they end at its minimum.

    Args: inputs: standardised, and a column of ones, (n, F). rewards: (n,). start: where the steps begin, (F,). mean:
        the reward of the round that is added, whose context is the mean, 0.
    """
    added = np.zeros((1, len(start)))
    added[0, -1] = 1.0
    inputs, rewards = np.concatenate([inputs, added]), np.append(rewards, mean)
    penalty = np.append(np.full(len(start) - 1, _L2), 0.0)

    def objective(at: Floats) -> float:
        logits = inputs @ at
        return float((np.logaddexp(0, logits) - rewards * logits).sum() + 0.5 * penalty @ np.square(at))

    weights = start
    reached = objective(weights)
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (p - rewards) + penalty * weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        while (found := objective(weights - step)) > reached and np.abs(step).max() > _CONVERGED:
            step = step / 2
        weights, reached = weights - step, found
        if np.abs(step).max() <= _CONVERGED:
            break
    return weights


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


def cross_fit_actions(
    fit: FitActionRewards,
    context: Floats,
    actions: NDArray[np.int64],
    rewards: Floats,
    folds: NDArray[np.int64],
    n_actions: int,
) -> Floats:
    """Predicted rewards of all actions in each row, by the model that was fitted on the other folds.

    Args: fit: `ridge_per_action` or `logistic_per_action`. context: (n, F). actions: (n,). rewards: (n,). folds: all
        rows of a user in one, as `rec.crossfit.user_folds` makes them, (n,). n_actions: A.
    Returns: (n, A).
    """
    return cross_fitted(
        folds, lambda others, own: fit(context[others], actions[others], rewards[others], n_actions)(context[own])
    )


def _standardised(features: Floats) -> Callable[[Floats], Floats]:
    """Maps features to zero mean and unit variance here, and adds a column of ones."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return lambda others: np.column_stack([(others - mean) / scale, np.ones(len(others))])
