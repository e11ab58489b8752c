"""What a policy is worth at least and at most, where weights are shrunk and the estimate is therefore biased."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np

from rec.errors import DataError
from rec.ope.estimate import Floats, Terms
from rec.ope.estimators import SHRINKAGES
from rec.ope.logged import LoggedActions


@final
@dataclass(frozen=True, slots=True)
class Bracket:
    """An estimate, and two others between whose expectations the truth lies, whatever the bias of the first.

    Attributes:
        value: of the estimate.
        low, high: of the least and of the greatest value that agree with what was seen, (n,) rows each; None, both,
            where the estimate is unbiased.
        bounds: between which numbers a row of low, and a row of high, can lie at all; None where unknown. Of an
            unbiased estimate a row of its own, twice.
    """

    value: Terms
    low: Terms | None = None
    high: Terms | None = None
    bounds: tuple[tuple[float, float], tuple[float, float]] | None = None

    @classmethod
    def unbiased(cls, value: Terms, bounds: tuple[float, float] | None = None) -> Self:
        """An estimate without bias. Args: bounds: of a row."""
        return cls(value, bounds=None if bounds is None else (bounds, bounds))

    @property
    def is_unbiased(self) -> bool:
        """Whether the estimate needs no bracket."""
        return self.low is None and self.high is None

    @property
    def ends(self) -> tuple[Terms, Terms]:
        """Low and high, or the value itself."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high

    def __sub__(self, other: Self) -> "Bracket":
        """The bracket of a difference, paired row by row; bounded where both are bounded and without bias."""
        value = self.value - other.value
        if self.is_unbiased and other.is_unbiased:
            if self.bounds is None or other.bounds is None:
                return Bracket.unbiased(value)
            (low, high), (least, greatest) = self.bounds[0], other.bounds[0]
            return Bracket.unbiased(value, (low - greatest, high - least))
        (low, high), (least, greatest) = self.ends, other.ends
        return Bracket(value, low - greatest, high - least)


def shrunk_bracket(
    rounds: LoggedActions,
    name: str,
    value: Terms,
    parameter: float | Floats,
    *,
    reward_range: tuple[float, float],
    weight_bound: float = np.inf,
) -> Bracket:
    """The bracket of an estimate whose weights w were shrunk to v <= w.

    Rewards lie in [a, b] and w has the mean 1, so what was shrunk away is a share 1 - mean(v) of the target policy, and
    what that share earned lies between a and b: the truth lies between the means of a + v (r - a) and b + v (r - b),
    whatever a reward model says. The share is known from weights that are bounded, so also where the log has missed
    the rare rows in which the target policy's largest weights would have been.
    Source: Bottou et al. (2013), Counterfactual reasoning and learning systems, section 4.4, JMLR 14, for clipping.

    Args:
        rounds: n rows.
        name: of an estimator of SHRINKAGES.
        value: what it says.
        parameter: of its shrinkage; one, or one a row that was chosen without the row's user, (n,).
        reward_range: [a, b].
        weight_bound: largest w possible.

    Raises: as `refuse_beyond`.
    """
    least, greatest = reward_range
    refuse_beyond(rounds, reward_range, weight_bound)
    weights = SHRINKAGES[name](rounds.weights, parameter)
    bounds = None
    largest = min(weight_bound, largest_weight(name, parameter))
    if np.isfinite(largest):
        reach = largest * (greatest - least)
        bounds = (least, least + reach), (greatest - reach, greatest)
    return Bracket(
        value=value,
        low=Terms.mean(least + weights * (rounds.rewards - least)),
        high=Terms.mean(greatest + weights * (rounds.rewards - greatest)),
        bounds=bounds,
    )


def refuse_beyond(rounds: LoggedActions, reward_range: tuple[float, float], weight_bound: float) -> None:
    """Refuses rewards and weights beyond what is said to be possible.

    Raises: DataError: naming the first row whose reward lies outside the range, or whose weight above the bound.
    """
    least, greatest = reward_range
    outside = (rounds.rewards < least) | (rounds.rewards > greatest)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"reward_range says that rewards lie in [{least:.12g}, {greatest:.12g}]; found {rounds.rewards[row]:.12g}: "
            "give the least and the greatest reward possible",
            row=row,
            column="rewards",
        )
    above = rounds.weights > weight_bound * (1 + 1e-9)
    if above.any():
        row = int(np.argmax(above))
        raise DataError(
            f"weight_bound says that weights are at most {weight_bound:.12g}; found {rounds.weights[row]:.12g}: give "
            "the largest target_p / propensity possible",
            row=row,
            column="target_p",
        )


def largest_weight(name: str, parameter: float | Floats) -> float:
    """The largest shrunk weight there can be: lambda w / (w^2 + lambda) is so at w = sqrt(lambda)."""
    largest = float(np.max(parameter))
    return largest**0.5 / 2 if name == "dr_os" else largest
