"""Intervals around an estimate: by its standard error, by resampling users, and by a bound that needs no normality."""

import math

import numpy as np
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rec.errors import ConfigError
from rec.ope.estimate import Floats, Integers, Interval, Terms

# Numbers held at once while users are resampled.
_BLOCK = 2**22
# Resamples beyond each end of an interval without which the end is a matter of chance.
_BEYOND = 5


def resamples_for(level: float) -> int:
    """How many resamples tell the ends of a bootstrap interval of a level: 5 of them, at least, lie beyond each."""
    return math.ceil(2 * _BEYOND / (1 - level) - 1e-6)


def student_t_interval(value: float, std_error: float, n_clusters: int, *, level: float) -> Interval:
    """Value ± t * std_error, with the quantile t of Student's distribution of C - 1 degrees of freedom.

    For many users it is the normal distribution's. Assumes: the estimate is as good as normal, as means of many are.

    Args: n_clusters: C, users, at least 2.
    """
    quantile = float(stats.t.ppf(0.5 + level / 2, n_clusters - 1))  # pyright: ignore[reportUnknownMemberType]
    return Interval(value - quantile * std_error, value + quantile * std_error, level, "student_t")


def bootstrap_interval(
    terms: Terms, codes: Integers, n_clusters: int, *, level: float, n_resamples: int, rng: np.random.Generator
) -> Interval:
    """Percentiles of the value over samples of as many users, drawn with replacement.

    Only the users' sums of numerators and denominators are resampled, so a resample costs C operations, not n.
    Source: Efron (1979), doi:10.1214/aos/1176344552, with users as the units.
    """
    columns = np.concatenate([terms.numerator, terms.denominator], axis=1)
    sums = np.stack([np.bincount(codes, weights=column, minlength=n_clusters) for column in columns.T], axis=1)
    values = np.empty(n_resamples)
    block = max(1, _BLOCK // n_clusters)
    for start in range(0, n_resamples, block):
        rows = min(block, n_resamples - start)
        drawn = rng.integers(0, n_clusters, (rows, n_clusters)) + np.arange(rows)[:, None] * n_clusters
        counts = np.bincount(drawn.reshape(-1), minlength=rows * n_clusters).reshape(rows, n_clusters)
        numerator, denominator = np.split(counts.astype(np.float64) @ sums, 2, axis=1)
        if (denominator <= 0).any():
            raise ConfigError(
                "a resample of users holds no positive weight: the target policy agrees with the log for too few of "
                "them to resample; take a student_t interval, or an estimator that is not self-normalised"
            )
        values[start : start + rows] = (numerator / denominator).sum(axis=1)
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high), level, "bootstrap")


def empirical_bernstein_interval(
    contributions: Floats, codes: Integers, n_clusters: int, *, bounds: tuple[float, float], level: float
) -> Interval:
    """Holds with probability `level` at least, for any distribution of contributions within the bounds.

    With X_1..X_C independent in [0, R], V their sample variance and delta the error of one side:
    mean ± (sqrt(2 V log(2 / delta) / C) + 7 R log(2 / delta) / (3 (C - 1))). Source: Maurer and Pontil (2009),
    theorem 11, arXiv:0907.3740. Here X_c = C / n * sum over the rows of user c of (contribution - lowest bound), so R
    is the bounds' width times C / n times the rows of the busiest user: with one row a user, the width alone.

    Args:
        contributions: whose mean is the estimate, (n,).
        codes: user of each row, 0..C-1, (n,).
        n_clusters: C, at least 2.
        bounds: of what a contribution can be at all, not of what was seen.
        level: of the two-sided interval.

    Raises: ConfigError: when a contribution lies outside the bounds.
    """
    low, high = bounds
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    outside = (contributions < low - slack) | (contributions > high + slack)
    if outside.any():
        row = int(np.argmax(outside))
        raise ConfigError(
            f"the bounds [{low:.12g}, {high:.12g}] of contributions do not hold: row {row} has "
            f"{contributions[row]:.12g}; give the true reward_range, weight_bound and predictions within that range"
        )
    n = len(contributions)
    per_cluster = n_clusters / n * np.bincount(codes, weights=contributions - low, minlength=n_clusters)
    width = n_clusters / n * int(np.bincount(codes).max()) * (high - low)
    log_term = math.log(4 / (1 - level))
    half = math.sqrt(2 * per_cluster.var(ddof=1) * log_term / n_clusters)
    half += 7 * width * log_term / (3 * (n_clusters - 1))
    mean = float(contributions.mean())
    return Interval(mean - half, mean + half, level, "empirical_bernstein")
