"""Means over seeds and logs, and differences paired by both."""

import numpy as np
from numpy.typing import NDArray


def crossed_mean(values: NDArray[np.float64]) -> tuple[float, float | None]:
    """Mean of a seeds x logs table, and its standard error where both count as drawn at random.

    With y_sl = mean + a_s + b_l + e_sl the mean's variance is var(a)/S + var(b)/L + var(e)/(SL), estimated from the
    mean squares as (MS_seeds + MS_logs - MS_rest) / (SL), and at least by MS_rest / (SL). With one seed or one log the
    other's plain standard error, which knows nothing of the variation between the former; None for a single run.

    Source: Searle, Casella and McCulloch (1992), Variance Components, section 4.
    Args: values: (S, L).
    """
    n_seeds, n_logs = values.shape
    mean = float(values.mean())
    if values.size == 1:
        return mean, None
    if 1 in values.shape:
        return mean, float(values.std(ddof=1) / values.size**0.5)
    by_seed, by_log = values.mean(axis=1), values.mean(axis=0)
    rest = values - by_seed[:, None] - by_log + mean
    ms_rest = float((rest**2).sum() / ((n_seeds - 1) * (n_logs - 1)))
    ms_seeds, ms_logs = n_logs * float(by_seed.var(ddof=1)), n_seeds * float(by_log.var(ddof=1))
    return mean, (max(ms_seeds + ms_logs - ms_rest, ms_rest) / values.size) ** 0.5
