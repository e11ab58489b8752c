"""Which settings to learn with, by cross-validation on the log alone: nothing here knows the true rewards."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from synthetic_bandit.comparison import steadiest_of_the_best
from synthetic_bandit.generator import Bandit, Floats
from synthetic_bandit.learning import (
    Objective,
    Settings,
    cross_fitted_rewards,
    fit_policy,
    fit_regression,
    folds_of,
    probabilities,
    take,
)

from rec.ope import ESTIMATORS, LoggedActions
from rec.weights import effective_sample_size

# Other than the folds that reward models are fitted on.
FOLD_SEED: Final = 1


def choose_regression(
    log: Bandit, grid: Sequence[Settings], n_folds: int, seed: int
) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings of the least cross-entropy of rewards held out, and that of all."""
    folds = folds_of(log, n_folds, seed=FOLD_SEED)
    told = []
    for settings in grid:
        errors = np.empty(len(log))
        for fold in range(n_folds):
            own = np.flatnonzero(folds == fold)
            held_out = take(log, own)
            model = fit_regression(take(log, np.flatnonzero(folds != fold)), settings, seed)
            q_hat = probabilities(model, held_out.context, kind="logistic")
            predicted = q_hat[np.arange(len(own)), held_out.action].clip(1e-7, 1 - 1e-7)
            errors[own] = -np.log(np.where(held_out.reward > 0, predicted, 1 - predicted))
        told.append({"objective": "regression", **asdict(settings), "cross_entropy": float(errors.mean())})
    best = int(np.argmin([row["cross_entropy"] for row in told]))
    return grid[best], told


def choose_policies(
    log: Bandit, grids: dict[Objective, Sequence[Settings]], regression: Settings, n_folds: int, seed: int
) -> tuple[dict[Objective, Settings], list[dict[str, Any]]]:
    """The settings of each objective by the doubly robust estimate of the softmax policies they lead to.

    Every fold of the log judges policies, and predictions, that were learned on the others. Settings are ordered, the
    steadiest first, and the first within one standard error of the best is taken (`steadiest_of_the_best`).

    Args: regression: settings of the reward models, with which policies are learned and judged.
    Returns: the settings, and the estimates of all.
    """
    folds = folds_of(log, n_folds, seed=FOLD_SEED)
    contributions, weights = ({name: np.empty((len(log), len(grid))) for name, grid in grids.items()} for _ in "ab")
    for fold in range(n_folds):
        own = np.flatnonzero(folds == fold)
        learn, held_out = take(log, np.flatnonzero(folds != fold)), take(log, own)
        learned_from = cross_fitted_rewards(learn, regression, seed)
        judged_by = probabilities(fit_regression(learn, regression, seed), held_out.context, kind="logistic")
        for objective, grid in grids.items():
            for place, settings in enumerate(grid):
                model = fit_policy(learn, objective, settings, seed, learned_from)
                logged = as_logged(held_out, probabilities(model, held_out.context, kind="softmax"), judged_by)
                contributions[objective][own, place] = ESTIMATORS["dr"](logged).numerator[:, 0]
                weights[objective][own, place] = logged.weights
    chosen, told = {}, []
    for objective, grid in grids.items():
        rows = contributions[objective]
        found = steadiest_of_the_best(rows, np.arange(len(log)))
        chosen[objective] = grid[found.chosen]
        told += [
            {
                "objective": objective,
                **asdict(settings),
                "estimate": float(rows[:, place].mean()),
                "std_error": float(rows[:, place].std(ddof=1) / len(log) ** 0.5),
                "below_best": float(found.gaps[place]),
                "below_best_std_error": float(found.errors[place]),
                "ess": effective_sample_size(weights[objective][:, place]),
                "chosen": place == found.chosen,
            }
            for place, settings in enumerate(grid)
        ]
    return chosen, told


def as_logged(log: Bandit, policy: Floats, q_hat: Floats) -> LoggedActions:
    """The log with a policy, (n, A), and predicted rewards, (n, A)."""
    rows = np.arange(len(log))
    return LoggedActions(
        rewards=log.reward,
        propensities=log.pscore,
        target_p=policy[rows, log.action],
        q_logged=q_hat[rows, log.action],
        q_target=(policy * q_hat).sum(axis=1),
    )
