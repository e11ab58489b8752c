"""Which interval is put around an estimate, and putting it there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final, get_args

import numpy as np

from rec.errors import ConfigError
from rec.ope.brackets import Bracket
from rec.ope.estimate import Interval, Method, Terms, std_error
from rec.ope.intervals import bootstrap_interval, empirical_bernstein_interval, resamples_for, student_t_interval
from rec.ope.logged import LARGEST, is_real
from rec.ope.overlap import Overlap

N_RESAMPLES: Final = 2000


@final
@dataclass(frozen=True, slots=True)
class IntervalSettings:
    """Which interval is put around estimates.

    Attributes:
        method: `student_t` is quick and right for many users; `bootstrap` follows a skewed distribution; the
            `empirical_bernstein` interval is wide, and holds however few the users and heavy the weights. That of an
            estimator that shrinks weights allows for the bias of shrinking, too.
        level: of the two-sided interval.
        n_resamples: of the bootstrap.
        reward_range, weight_bound: least and greatest reward, and largest weight, that are possible at all; the
            empirical Bernstein interval needs both, and that of shrinking estimators takes the least and the greatest
            reward of the log where no range is given.
    """

    method: Method = "student_t"
    level: float = 0.95
    n_resamples: int = N_RESAMPLES
    reward_range: tuple[float, float] | None = None
    weight_bound: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(
                f"no interval {self.method!r} here; there are {', '.join(get_args(Method))}", field="method"
            )
        if not (is_real(self.level) and self.level > 0 and 0.5 + self.level / 2 < 1):
            raise ConfigError(f"level must lie between 0 and 1; found {self.level!r}", field="level")
        self._refuse_few_resamples()
        self._refuse_impossible_bounds()
        bounded = self.reward_range is not None and self.weight_bound is not None
        if self.method == "empirical_bernstein" and not bounded:
            raise ConfigError(
                "the empirical Bernstein interval needs reward_range, the least and the largest reward possible, and "
                "weight_bound, the largest target_p / propensity possible (eligible items / epsilon)",
                field="reward_range" if self.reward_range is None else "weight_bound",
            )

    def _refuse_few_resamples(self) -> None:
        needed = resamples_for(self.level)
        whole = isinstance(self.n_resamples, int | np.integer)
        if not whole or self.n_resamples < (needed if self.method == "bootstrap" else 1):
            raise ConfigError(
                f"the ends of a bootstrap interval of level {self.level} are told by {needed} resamples or more; found "
                f"{self.n_resamples}: take more n_resamples (from Python), or a lower level",
                field="n_resamples",
            )

    def _refuse_impossible_bounds(self) -> None:
        if self.reward_range is not None:
            pair = self.reward_range
            if not isinstance(pair, Sequence | np.ndarray) or len(pair) != 2 or not all(map(is_real, pair)):
                raise ConfigError(
                    f"the least reward possible and the greatest are required, two numbers; found {pair!r}",
                    field="reward_range",
                )
            low, high = pair
            if not -LARGEST <= low <= high <= LARGEST:
                raise ConfigError(
                    "the least reward possible is required, then the greatest, neither beyond "
                    f"{LARGEST:g}; found {low} and {high}" + (": exchange them" if low > high else ""),
                    field="reward_range",
                )
        bound = self.weight_bound
        if bound is not None and not (is_real(bound) and 0 < bound <= LARGEST):
            raise ConfigError(
                "the largest target_p / propensity possible is required, a number above 0 and not beyond "
                f"{LARGEST:g}; found {bound!r}",
                field="weight_bound",
            )


def interval_around(
    bracket: Bracket, overlap: Overlap, settings: IntervalSettings, rng: np.random.Generator
) -> Interval:
    """From the lower end of the interval around the bracket's low to the upper end of that around its high.

    Each bounds the truth from its side whichever end turns out to be the lower one. An estimate lies outside its
    bracket where shrunk weights have a mean above 1, by chance or because propensities are too small, and where the
    least reward is above 0: then the interval around the estimate itself counts, too.
    """
    (low, high), (of_low, of_high) = bracket.ends, bracket.bounds or (None, None)
    around = _interval_of(low, of_low, overlap, settings, rng)
    if bracket.is_unbiased:
        return around
    value, above = bracket.value.value, _interval_of(high, of_high, overlap, settings, rng)
    found = replace(around, low=min(value, around.low), high=max(value, above.high))
    if low.value <= value <= high.value:
        return found
    own = _interval_of(bracket.value, None, overlap, settings, rng)
    return replace(found, low=min(found.low, own.low), high=max(found.high, own.high))


def _interval_of(
    terms: Terms,
    bounds: tuple[float, float] | None,
    overlap: Overlap,
    settings: IntervalSettings,
    rng: np.random.Generator,
) -> Interval:
    level, codes, n_clusters = settings.level, overlap.codes, overlap.n_clusters
    if settings.method == "empirical_bernstein" and bounds is not None:
        # Only plain means have bounds, and differences of them.
        rows = terms.numerator.sum(axis=1)
        return empirical_bernstein_interval(rows, codes, n_clusters, bounds=bounds, level=level)
    if settings.method == "bootstrap":
        n_resamples = settings.n_resamples
        return bootstrap_interval(terms, codes, n_clusters, level=level, n_resamples=n_resamples, rng=rng)
    error = std_error(terms, codes, n_clusters)
    assert error is not None
    return student_t_interval(terms.value, error, n_clusters, level=level)
