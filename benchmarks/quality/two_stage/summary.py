"""Means over seeds and logs, and differences paired by both."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


class CrossedMean(NamedTuple):
    """The mean of a seeds x logs table.

    Attributes:
        mean: of all its values.
        std_error: where seeds and logs both count as drawn at random; None for a single value.
        df: degrees of freedom of the standard error; None for a single value.
    """

    mean: float
    std_error: float | None
    df: float | None

    @property
    def p_value(self) -> float | None:
        """Two-sided, of a true mean of 0, by Student's t; None for a single value."""
        if self.std_error is None or self.df is None:
            return None
        if self.std_error == 0:
            return float(self.mean == 0)
        return float(2 * stats.t.sf(abs(self.mean) / self.std_error, self.df))


def crossed_mean(values: NDArray[np.float64]) -> CrossedMean:
    """Mean of a seeds x logs table, and its standard error where both count as drawn at random.

    With y_sl = mean + a_s + b_l + e_sl the mean's variance is var(a)/S + var(b)/L + var(e)/(SL), estimated from the
    mean squares as (MS_seeds + MS_logs - MS_rest) / (SL), and at least by MS_rest / (SL). Few logs make that estimate a
    poor one, which the degrees of freedom tell: (sum of c MS)^2 / sum of (c MS)^2 / df, where c is 1, 1 and -1. Where
    MS_rest is the larger estimate, those of the factor with fewer levels: that its variation did not show is chance
    as well, and p by the degrees of freedom of MS_rest would be below .001 several times too often. With one seed
    or one log the other's plain standard error, which knows nothing of the variation between the former; None for a
    single run.

    Source: Searle, Casella and McCulloch (1992), Variance Components, section 4; degrees of freedom: Satterthwaite
    (1946), doi:10.2307/3002019.
    Args: values: (S, L).
    """
    n_seeds, n_logs = values.shape
    mean = float(values.mean())
    if values.size == 1:
        return CrossedMean(mean, None, None)
    if 1 in values.shape:
        return CrossedMean(mean, float(values.std(ddof=1) / values.size**0.5), values.size - 1.0)
    by_seed, by_log = values.mean(axis=1), values.mean(axis=0)
    rest = values - by_seed[:, None] - by_log + mean
    df_seeds, df_logs = n_seeds - 1, n_logs - 1
    df_rest = df_seeds * df_logs
    ms_rest = float((rest**2).sum() / df_rest)
    ms_seeds, ms_logs = n_logs * float(by_seed.var(ddof=1)), n_seeds * float(by_log.var(ddof=1))
    total = ms_seeds + ms_logs - ms_rest
    if total <= ms_rest:
        return CrossedMean(mean, (ms_rest / values.size) ** 0.5, min(df_seeds, df_logs))
    spread = ms_seeds**2 / df_seeds + ms_logs**2 / df_logs + ms_rest**2 / df_rest
    return CrossedMean(mean, (total / values.size) ** 0.5, total**2 / spread)
