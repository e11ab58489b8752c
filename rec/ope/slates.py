"""Estimators of what a slate is worth, from another policy's log of slates.

w_k = target_p / propensity of the item at position k given the items above it, w_1:k their product down to k, g_k the
gain at k. A slate's worth is the sum of its gains. Shapes: rows n, positions K.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from rec.ope.estimate import Floats, Terms
from rec.ope.logged import LoggedSlates

SlateEstimator = Callable[[LoggedSlates], Terms]


def position_wise(slates: LoggedSlates) -> Terms:
    """Mean of sum_k m_k g_k, with m_k the ratio of the *marginal* probabilities of the item at its position.

    Assumes: what an item earns at a position does not depend on the other items of the slate.
    Source: Li et al. (2018), item-position model, arXiv:1804.10488.
    """
    return Terms.mean((slates.marginal_weights * slates.gains).sum(axis=1))


def sn_position_wise(slates: LoggedSlates) -> Terms:
    """`position_wise`, self-normalised at each position."""
    return _normalized(slates.marginal_weights, slates.gains)


def cascade(slates: LoggedSlates) -> Terms:
    """Mean of sum_k w_1:k g_k.

    Assumes: what an item earns may depend on the items above it, but not on those below.
    Source: McInerney et al. (2020), reward interaction IPS, arXiv:2007.12986.
    """
    return Terms.mean((cascade_weights(slates) * slates.gains).sum(axis=1))


def sn_cascade(slates: LoggedSlates) -> Terms:
    """`cascade`, self-normalised at each position, as McInerney et al. (2020) recommend."""
    return _normalized(cascade_weights(slates), slates.gains)


def cascade_dr(slates: LoggedSlates) -> Terms:
    """Mean of sum_k w_1:k-1 q_target_k + w_1:k (g_k - q_logged_k).

    q_k predicts the gains from position k to the end. Unbiased where `cascade` is, whatever q says; where q is right
    and the gains are not random, only the slates' contexts vary. Source: Kiyohara et al. (2022), arXiv:2202.01562.
    """
    q_logged, q_target = slates.predictions
    weights = cascade_weights(slates)
    above = np.concatenate([np.ones((len(slates), 1)), weights[:, :-1]], axis=1)
    return Terms.mean((above * q_target + weights * (slates.gains - q_logged)).sum(axis=1))


def cascade_weights(slates: LoggedSlates) -> Floats:
    """w_1:k: how much likelier the target policy shows the slate down to each position, (n, K)."""
    return slates.weights.cumprod(axis=1)


def _normalized(weights: Floats, gains: Floats) -> Terms:
    return Terms(weights * gains, weights)


SLATE_ESTIMATORS: Final[dict[str, SlateEstimator]] = {
    "position_wise": position_wise,
    "sn_position_wise": sn_position_wise,
    "cascade": cascade,
    "sn_cascade": sn_cascade,
    "cascade_dr": cascade_dr,
}
