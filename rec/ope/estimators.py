"""Estimators of what a policy is worth when one item is shown a time, from another policy's log.

Each takes rounds and returns `Terms`: contributions row by row, of which value, standard error, bootstrap and paired
differences follow. w = target_p / propensity, q = the reward model.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from rec.ope.estimate import Floats, Terms
from rec.ope.logged import LoggedActions

Estimator = Callable[[LoggedActions], Terms]
# The parameter is one for all rows, or one for each, (n,).
ShrinkingEstimator = Callable[[LoggedActions, float | Floats], Terms]


def dm(rounds: LoggedActions) -> Terms:
    """Direct method: the mean predicted reward under the target policy.

    Its error is as if the predictions were the truth: how wrong the model is, it cannot tell.
    Source: Dudík et al. (2014), section 2, doi:10.1214/14-STS500.
    """
    _, q_target = rounds.predictions
    return Terms.mean(q_target)


def ips(rounds: LoggedActions) -> Terms:
    """Inverse propensity scoring: mean of w r. Unbiased where the propensities are right and cover the target.

    Source: Horvitz and Thompson (1952), doi:10.1080/01621459.1952.10483446.
    """
    return Terms.mean(rounds.weights * rounds.rewards)


def clipped_ips(rounds: LoggedActions, max_weight: float | Floats) -> Terms:
    """Mean of min(w, max_weight) r: less variance for a bias, downwards where rewards are positive.

    Source: Ionides (2008), doi:10.1198/106186008X320456.
    """
    return Terms.mean(clipped(rounds.weights, max_weight) * rounds.rewards)


def snips(rounds: LoggedActions) -> Terms:
    """Self-normalised: sum of w r over sum of w. A constant added to all rewards adds to the value.

    Source: Swaminathan and Joachims (2015), section 4, NeurIPS.
    """
    return Terms.ratios([(rounds.weights * rounds.rewards, rounds.weights)])


def dr(rounds: LoggedActions) -> Terms:
    """Doubly robust: mean of q(target) + w (r - q(logged)). Unbiased where propensities or predictions are right.

    Source: Dudík et al. (2014), equation 7, doi:10.1214/14-STS500.
    """
    q_logged, q_target = rounds.predictions
    return Terms.mean(q_target + rounds.weights * (rounds.rewards - q_logged))


def sndr(rounds: LoggedActions) -> Terms:
    """Doubly robust with self-normalised weights: mean of q(target) + sum of w (r - q(logged)) over sum of w.

    Source: Thomas and Brunskill (2016), weighted doubly robust, at horizon 1, ICML.
    """
    q_logged, q_target = rounds.predictions
    correction = rounds.weights * (rounds.rewards - q_logged)
    return Terms.ratios([(q_target, np.ones(len(rounds))), (correction, rounds.weights)])


def switch_dr(rounds: LoggedActions, threshold: float | Floats) -> Terms:
    """Doubly robust that trusts the model alone where w exceeds the threshold.

    Source: Wang et al. (2017), SWITCH with a doubly robust base, ICML, arXiv:1612.01205.
    """
    q_logged, q_target = rounds.predictions
    return Terms.mean(q_target + switched(rounds.weights, threshold) * (rounds.rewards - q_logged))


def dr_os(rounds: LoggedActions, shrinkage: float | Floats) -> Terms:
    """Doubly robust with optimistic shrinkage: w becomes lambda w / (w^2 + lambda), lambda = shrinkage.

    lambda 0 is the direct method, infinity is doubly robust; no weight exceeds sqrt(lambda) / 2.
    Source: Su et al. (2020), optimistic shrinkage, arXiv:1907.09623.
    """
    q_logged, q_target = rounds.predictions
    return Terms.mean(q_target + optimistic(rounds.weights, shrinkage) * (rounds.rewards - q_logged))


def clipped(weights: Floats, max_weight: float | Floats) -> Floats:
    """Weights of max_weight at most, (n,)."""
    return np.minimum(weights, max_weight)


def switched(weights: Floats, threshold: float | Floats) -> Floats:
    """Weights up to the threshold, and 0 beyond, (n,)."""
    return np.where(weights <= threshold, weights, 0.0)


def optimistic(weights: Floats, shrinkage: float | Floats) -> Floats:
    """Weights w / (1 + w^2 / lambda), which is lambda w / (w^2 + lambda), (n,)."""
    with np.errstate(over="ignore"):
        return weights / (1 + np.square(weights) / np.maximum(shrinkage, np.finfo(np.float64).tiny))


ESTIMATORS: Final[dict[str, Estimator]] = {"dm": dm, "ips": ips, "snips": snips, "dr": dr, "sndr": sndr}
SHRINKING_ESTIMATORS: Final[dict[str, ShrinkingEstimator]] = {
    "clipped_ips": clipped_ips,
    "switch_dr": switch_dr,
    "dr_os": dr_os,
}
# What becomes of the weights; never more than they were.
SHRINKAGES: Final[dict[str, Callable[[Floats, float | Floats], Floats]]] = {
    "clipped_ips": clipped,
    "switch_dr": switched,
    "dr_os": optimistic,
}
NEED_PREDICTIONS: Final = frozenset({"dm", "dr", "sndr", "switch_dr", "dr_os"})
# Means of rows that are bounded where weights and rewards are, as the empirical Bernstein interval asks for.
BOUNDED: Final = ("dm", "ips", "dr")


def contribution_bounds(
    name: str, *, reward_range: tuple[float, float], weight_bound: float
) -> tuple[float, float] | None:
    """Between which numbers one row's contribution lies, whatever the log holds; None for self-normalised estimators.

    Assumes: predictions lie within the rewards' range.

    Args:
        name: of an estimator of ESTIMATORS.
        reward_range: least and largest reward possible.
        weight_bound: largest target_p / propensity possible; with a log of share epsilon and E eligible items, E /
            epsilon.
    """
    low, high = reward_range
    if name == "dm":
        return reward_range
    if name == "ips":
        return min(0.0, weight_bound * low), max(0.0, weight_bound * high)
    if name == "dr":
        return low - weight_bound * (high - low), high + weight_bound * (high - low)
    return None
