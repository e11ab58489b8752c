"""Which policy to take by what a log says of several: a lower bound of each."""

from typing import Final, NamedTuple

import numpy as np
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rec.ope.estimate import Floats, Integers, Terms, cluster_codes, std_error
from rec.weights import effective_sample_size

LEVEL: Final = 0.95


class PolicyValue(NamedTuple):
    """An estimate, its standard error, and a lower bound."""

    value: float
    std_error: float
    low: float


def snips_with_bound(weights: Floats, rewards: Floats, users: Integers) -> PolicyValue:
    """The self-normalised estimate of a policy's reward, and a lower bound of it that few rounds cannot lift.

    bound = snips - t * std_error, where std_error = max(s, sd(rewards) / sqrt(ess)). s is the standard error by the
    delta method, clustered by user. It is near 0 where the few rounds that hold nearly all weight happen to agree; the
    other term is what it would be if rewards under the policy varied as the logged ones do (Kish, 1965). t is the 95%
    quantile of Student's distribution, whose degrees of freedom are the effective number of users less 1, and 1 at
    least: that of C users who weigh alike is C. The largest of many estimates is too high, and more so the fewer rounds
    it rests on; of bounds it is less so.

    Args: weights: importance weights, above 0, (n,). rewards: (n,). users: who saw each round, (n,).
    """
    terms = Terms.ratios([(weights * rewards, weights)])
    codes, n_users = cluster_codes(users)
    spread = float(rewards.std()) / effective_sample_size(weights) ** 0.5
    error = max(std_error(terms, codes, n_users) or 0.0, spread)
    freedom = max(effective_sample_size(np.bincount(codes, weights=weights).astype(np.float64)) - 1, 1.0)
    quantile = float(stats.t.ppf(LEVEL, freedom))  # pyright: ignore[reportUnknownMemberType]
    return PolicyValue(terms.value, error, terms.value - quantile * error)
