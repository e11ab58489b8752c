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
ShrinkingEstimator = Callable[[LoggedActions, float], Terms]


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


def clipped_ips(rounds: LoggedActions, max_weight: float) -> Terms:
    """Mean of min(w, max_weight) r: less variance for a bias, downwards where rewards are positive.

    Source: Ionides (2008), doi:10.1198/106186008X320456.
    """
    return Terms.mean(np.minimum(rounds.weights, max_weight) * rounds.rewards)


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


def switch_dr(rounds: LoggedActions, threshold: float) -> Terms:
    """Doubly robust that trusts the model alone where w exceeds the threshold.

    Source: Wang et al. (2017), SWITCH with a doubly robust base, ICML, arXiv:1612.01205.
    """
    q_logged, q_target = rounds.predictions
    weights = np.where(rounds.weights <= threshold, rounds.weights, 0.0)
    return Terms.mean(q_target + weights * (rounds.rewards - q_logged))


def dr_os(rounds: LoggedActions, shrinkage: float) -> Terms:
    """Doubly robust with optimistic shrinkage: w becomes lambda w / (w^2 + lambda), lambda = shrinkage.

    lambda 0 is the direct method, infinity is doubly robust; no weight exceeds sqrt(lambda) / 2.
    Source: Su et al. (2020), optimistic shrinkage, arXiv:1907.09623.
    """
    q_logged, q_target = rounds.predictions
    return Terms.mean(q_target + _shrunk(rounds.weights, shrinkage) * (rounds.rewards - q_logged))


def _shrunk(weights: Floats, shrinkage: float) -> Floats:
    if np.isinf(shrinkage):
        return weights
    if shrinkage == 0:
        return np.zeros_like(weights)
    return shrinkage * weights / (np.square(weights) + shrinkage)


ESTIMATORS: Final[dict[str, Estimator]] = {"dm": dm, "ips": ips, "snips": snips, "dr": dr, "sndr": sndr}
SHRINKING_ESTIMATORS: Final[dict[str, ShrinkingEstimator]] = {
    "clipped_ips": clipped_ips,
    "switch_dr": switch_dr,
    "dr_os": dr_os,
}
NEED_PREDICTIONS: Final = frozenset({"dm", "dr", "sndr", "switch_dr", "dr_os"})


def contribution_bounds(
    name: str, *, reward_range: tuple[float, float], weight_bound: float, parameter: float | None
) -> tuple[float, float] | None:
    """Between which numbers one row's contribution lies, whatever the log holds; None for self-normalised estimators.

    Assumes: predictions lie within the rewards' range.

    Args:
        name: of the estimator.
        reward_range: least and largest reward possible.
        weight_bound: largest target_p / propensity possible; with a log of share epsilon and E eligible items, E /
            epsilon.
        parameter: of a shrinking estimator.
    """
    low, high = reward_range
    largest = weight_bound
    if parameter is not None:
        largest = min(weight_bound, np.sqrt(parameter) / 2 if name == "dr_os" else parameter)
    if name == "dm":
        return reward_range
    if name in ("ips", "clipped_ips"):
        return min(0.0, largest * low), max(0.0, largest * high)
    if name in ("dr", "switch_dr", "dr_os"):
        return low - largest * (high - low), high + largest * (high - low)
    return None
