"""An estimate with its error, and how estimators hand over what it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Method = Literal["student_t", "bootstrap", "empirical_bernstein"]


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval; its lower end alone is a bound of level (1 + level) / 2."""

    low: float
    high: float
    level: float
    method: Method


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What a policy is worth, how sure that is, and what would make it wrong.

    Attributes:
        value: estimated mean reward of a row (a round, or a slate).
        std_error: clustered by user; None with fewer than two users.
        interval: None with fewer than two users.
        n: rows.
        n_clusters: users.
        ess: effective sample size of the importance weights before any clipping or shrinking: how many rows under the
            target policy itself the log is worth.
        max_weight: the largest of those weights.
        support: share of the target policy's choices that the logging policy could have made, of slates by cascade
            forms the share of whole slates; None where unknown.
        estimator: its name.
    """

    value: float
    std_error: float | None
    interval: Interval | None
    n: int
    n_clusters: int
    ess: float
    max_weight: float
    support: float | None
    estimator: str

    def to_json(self) -> dict[str, Any]:
        """The estimate as the command line prints it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        around = values["interval"]
        return cls(**{**values, "interval": None if around is None else Interval(**around)})


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """An estimate as a sum of ratios of means: value = sum_j mean(numerator_j) / mean(denominator_j).

    A plain mean has one denominator of ones; a self-normalised one has its weights there. All that follows (standard
    errors, bootstrap, differences of policies) is written once for this form.

    Attributes:
        numerator: row by row, (n, J).
        denominator: row by row, means above 0, (n, J).
    """

    numerator: Floats
    denominator: Floats

    @classmethod
    def mean(cls, contributions: Floats) -> Self:
        """A plain mean of contributions, (n,)."""
        return cls(contributions[:, None], np.ones((len(contributions), 1)))

    @classmethod
    def ratios(cls, pairs: Sequence[tuple[Floats, Floats]]) -> Self:
        """A sum of mean(a) / mean(b) over pairs (a, b), each (n,)."""
        return cls(np.stack([a for a, _ in pairs], axis=1), np.stack([b for _, b in pairs], axis=1))

    def __len__(self) -> int:
        return len(self.numerator)

    def __sub__(self, other: Self) -> "Terms":
        """Terms of the difference, paired row by row."""
        if len(self) != len(other):
            raise ValueError(f"a paired difference needs the same rows on both sides; found {len(self)}, {len(other)}")
        numerator = np.concatenate([self.numerator, -other.numerator], axis=1)
        return Terms(numerator, np.concatenate([self.denominator, other.denominator], axis=1))

    @property
    def value(self) -> float:
        """The estimate."""
        return float((self.numerator.sum(axis=0) / self.denominator.sum(axis=0)).sum())

    def influence(self) -> Floats:
        """How far each row moves the value, to first order, times n; they sum to zero; (n,).

        For a ratio R = mean(a) / mean(b) it is (a_i - R b_i) / mean(b), the delta method. Source: Owen (2013), Monte
        Carlo theory, methods and examples, chapter 9, equation 9.8.
        """
        ratio = self.numerator.sum(axis=0) / self.denominator.sum(axis=0)
        return ((self.numerator - ratio * self.denominator) / self.denominator.mean(axis=0)).sum(axis=1)


def cluster_codes(clusters: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Clusters numbered from 0, and how many there are; (n,)."""
    names, codes = np.unique(clusters, return_inverse=True)
    return codes.astype(np.int64), len(names)


def std_error(terms: Terms, codes: Integers, n_clusters: int) -> float | None:
    """Standard error with rows of one cluster depending on each other in any way.

    sqrt(C / (C - 1) * sum over clusters of (sum of its rows' influence)^2) / n, the sandwich called CR1; without the
    factor it is CR0. Source: Cameron and Miller (2015), section II, doi:10.3368/jhr.50.2.317.

    Args: terms: n rows. codes: cluster of each row, 0..C-1, (n,). n_clusters: C.
    Returns: None with fewer than two clusters.
    """
    if n_clusters < 2:
        return None
    sums = np.bincount(codes, weights=terms.influence(), minlength=n_clusters)
    return float(np.sqrt(n_clusters / (n_clusters - 1) * np.square(sums).sum()) / len(terms))
