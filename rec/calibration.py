"""Whether probabilities are what they say: of what was given 30%, did 30% come true?"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError

Floats = NDArray[np.float64]

# The 97.5% quantile of a normal distribution.
_QUANTILE = 1.959963984540054


@final
@dataclass(frozen=True, slots=True)
class Calibration:
    """Predictions in groups of alike size, from the lowest to the highest, and what came of each.

    Attributes:
        expected_error: expected calibration error, the mean of |observed - predicted| over groups, weighted by rows.
        by_chance: what that error would be on average if every probability were right, for rows that are independent.
        log_loss: mean of -log of the probability given to what happened.
        predicted, observed: means of each group, (K,).
        low, high: Wilson's 95% interval of `observed`, for rows that are independent, (K,).
        n: rows of each group, (K,).
    """

    expected_error: float
    by_chance: float
    log_loss: float
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The curve as `tandem evaluate --json` prints it."""
        columns = ("predicted", "observed", "low", "high", "n")
        bins = zip(*(getattr(self, name).tolist() for name in columns), strict=True)
        return {
            "expected_error": self.expected_error,
            "by_chance": self.by_chance,
            "log_loss": self.log_loss,
            "n": int(self.n.sum()),
            "bins": [dict(zip(columns, row, strict=True)) for row in bins],
        }


def calibration(probabilities: Floats, happened: NDArray[np.bool_], *, n_bins: int = 15) -> Calibration:
    """How far probabilities are from frequencies.

    Groups hold alike numbers of rows; rows of equal probability are in one. Source: Naeini et al. (2015), Obtaining
    well calibrated probabilities using Bayesian binning, AAAI-15. Differs from it in: groups are of alike size, not of
    alike width, which would leave most of them nearly empty where successes are rare.

    Args: probabilities, happened: of each row, (R,). n_bins: groups at the most.
    Raises: DataError: for no rows, or numbers that are no probabilities.
    """
    if len(probabilities) != len(happened) or not len(probabilities):
        raise DataError(
            f"each probability needs an outcome; found {len(probabilities)} probabilities and {len(happened)} outcomes"
        )
    wrong = ~((probabilities >= 0) & (probabilities <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"a probability lies from 0 to 1; found {probabilities[row]}", row=row)
    edges = np.unique(np.quantile(probabilities, np.arange(1, n_bins) / n_bins, method="higher"))
    group = np.searchsorted(edges, probabilities, side="right")
    kept, group, n = np.unique(group, return_inverse=True, return_counts=True)
    predicted = np.bincount(group, probabilities, len(kept)) / n
    observed = np.bincount(group, happened, len(kept)) / n
    variance = np.bincount(group, probabilities * (1 - probabilities), len(kept)) / n
    share = n / n.sum()
    given = np.where(happened, probabilities, 1 - probabilities)
    low, high = _wilson(observed, n)
    return Calibration(
        expected_error=float((share * np.abs(observed - predicted)).sum()),
        # The mean size of a normal error is sqrt(2 / pi) times its deviation.
        by_chance=float((share * np.sqrt(2 / np.pi * variance / n)).sum()),
        log_loss=float(-np.log(np.maximum(given, 1e-15)).mean()),
        predicted=predicted,
        observed=observed,
        low=low,
        high=high,
        n=n,
    )


def _wilson(rate: Floats, n: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Source: Wilson (1927), doi:10.1080/01621459.1927.10502953."""
    square = _QUANTILE**2 / n
    middle = (rate + square / 2) / (1 + square)
    half = _QUANTILE * np.sqrt(rate * (1 - rate) / n + square / (4 * n)) / (1 + square)
    return middle - half, middle + half
