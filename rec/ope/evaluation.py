"""Estimates of one policy, or of the difference of two, by any of the estimators."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final, get_args

import numpy as np
from numpy.typing import NDArray

from rec.errors import ConfigError, DataError
from rec.ope.brackets import Bracket, refuse_beyond, shrunk_bracket
from rec.ope.estimate import Estimate, Floats, Interval, Method, Terms, std_error
from rec.ope.estimators import BOUNDED, ESTIMATORS, NEED_PREDICTIONS, SHRINKING_ESTIMATORS, contribution_bounds
from rec.ope.intervals import bootstrap_interval, empirical_bernstein_interval, normal_interval, resamples_for
from rec.ope.logged import LARGEST, LoggedActions, LoggedSlates, is_real
from rec.ope.slates import SLATE_ESTIMATORS, cascade_weights
from rec.ope.support import MIN_ESS, refuse_low_support, warn_of_overlap
from rec.ope.tuning import chosen_by_others
from rec.weights import diagnose

N_RESAMPLES: Final = 2000
# What to look at where few rows carry the weight: of one item a time, and of slates by cascade forms.
_OF_ACTIONS: Final = "look at the intervals of clipped_ips, switch_dr and dr_os, which allow for what was not drawn"
_OF_CASCADES: Final = "take position_wise, where what an item earns does not depend on those above it"


@final
@dataclass(frozen=True, slots=True)
class IntervalSettings:
    """Which interval is put around estimates.

    Attributes:
        method: `normal` is quick and right for many users; `bootstrap` follows a skewed distribution; the
            `empirical_bernstein` interval is wide, and holds however few the users and heavy the weights. That of an
            estimator that shrinks weights allows for the bias of shrinking, too.
        level: of the two-sided interval.
        n_resamples: of the bootstrap.
        reward_range, weight_bound: least and greatest reward, and largest weight, that are possible at all; the
            empirical Bernstein interval needs both, and that of shrinking estimators takes the least and the greatest
            reward of the log where no range is given.
    """

    method: Method = "normal"
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


def possible_estimators(rounds: LoggedActions, settings: IntervalSettings) -> list[str]:
    """The estimators that the rounds have predictions for, and that have an interval of the kind asked for."""
    predicted = rounds.q_logged is not None and rounds.q_target is not None
    known = BOUNDED if settings.method == "empirical_bernstein" else (*ESTIMATORS, *SHRINKING_ESTIMATORS)
    return [name for name in known if predicted or name not in NEED_PREDICTIONS]


def evaluate(
    rounds: LoggedActions,
    estimators: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    parameters: Mapping[str, float] | None = None,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> dict[str, Estimate]:
    """What the target policy is worth a round, by several estimators.

    Args:
        rounds: the log, with the target's probabilities.
        estimators: names of ESTIMATORS and SHRINKING_ESTIMATORS. None: `possible_estimators`.
        rng: of the bootstrap's resamples.
        parameters: of shrinking estimators, by name; those not given are chosen by cross-fitting over users.
        interval: None: normal, 95%.
        min_ess: effective sample size below which it warns.

    Warns: OverlapWarning: where the log holds little about the target policy.
    Raises: SupportError: when the log could show less than 95% of the target's choices. DataError: when an estimator
        needs predictions and there are none. ConfigError: for a name that is none or stands there twice, and for a
        parameter that is no number of 0 or more, or of an estimator not asked for.
    """
    _refuse_other_rows(LoggedActions, rounds)
    settings = interval or IntervalSettings()
    given = parameters or {}
    estimators = possible_estimators(rounds, settings) if estimators is None else estimators
    refuse_unknown(estimators, (*ESTIMATORS, *SHRINKING_ESTIMATORS))
    _refuse_wrong_parameters(given, estimators)
    if settings.method == "empirical_bernstein":
        _refuse_unbounded(estimators, given)
    overlap = _Overlap.of_actions(rounds, min_ess)
    found: dict[str, Estimate] = {}
    for name in estimators:
        bracket = _bracket(rounds, name, given.get(name), settings)
        found[name] = _estimate(bracket, name, overlap, settings, rng)
    return found


def _refuse_unbounded(estimators: Sequence[str], parameters: Mapping[str, float]) -> None:
    """Refuses estimators without an empirical Bernstein interval."""
    for name in estimators:
        if name not in BOUNDED and name not in parameters:
            tuned = name in SHRINKING_ESTIMATORS
            raise ConfigError(
                f"there is no empirical Bernstein interval for {name}"
                + (f" with a parameter chosen from the log: give parameters[{name!r}]" if tuned else "")
                + f"; {', '.join(BOUNDED)} have one",
                field="method",
            )


def _bracket(rounds: LoggedActions, name: str, parameter: float | None, settings: IntervalSettings) -> Bracket:
    """What one estimator says, and how far its bias may reach; a shrinking one without a parameter chooses it."""
    if name in ESTIMATORS:
        bounds = None
        if settings.reward_range is not None and settings.weight_bound is not None:
            refuse_beyond(rounds, settings.reward_range, settings.weight_bound)
            bounds = contribution_bounds(name, reward_range=settings.reward_range, weight_bound=settings.weight_bound)
        return Bracket.unbiased(ESTIMATORS[name](rounds), bounds)
    reward_range = settings.reward_range or (float(rounds.rewards.min()), float(rounds.rewards.max()))
    used = chosen_by_others(rounds, name, reward_range) if parameter is None else parameter
    weight_bound = np.inf if settings.weight_bound is None else settings.weight_bound
    value = SHRINKING_ESTIMATORS[name](rounds, used)
    bracket = shrunk_bracket(rounds, name, value, used, reward_range=reward_range, weight_bound=weight_bound)
    return bracket if parameter is not None else replace(bracket, bounds=None)


def evaluate_slates(
    slates: LoggedSlates,
    estimators: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> dict[str, Estimate]:
    """What the target policy is worth a slate, by estimators of SLATE_ESTIMATORS; otherwise as `evaluate`.

    Effective sample size and largest weight are those of whole slates, the product of all their weights; for the
    position-wise forms, the least and the largest of any position. So is support: the share of whole slates, or for the
    position-wise forms of choices at single positions. By default the cascade forms: `cascade_dr` where there are
    predictions, and no position-wise form, which assumes more.
    """
    _refuse_other_rows(LoggedSlates, slates)
    settings = interval or IntervalSettings()
    if estimators is None:
        estimators = ["cascade", "sn_cascade", *(["cascade_dr"] if slates.q_logged is not None else [])]
    refuse_unknown(estimators, SLATE_ESTIMATORS)
    _refuse_bernstein(settings)
    found: dict[str, Estimate] = {}
    for name in estimators:
        overlap = _Overlap.of_slates(slates, name, min_ess)
        found[name] = _estimate(Bracket.unbiased(SLATE_ESTIMATORS[name](slates)), name, overlap, settings, rng)
    return found


def evaluate_difference(
    challenger: LoggedActions,
    champion: LoggedActions,
    estimator: str = "dr",
    *,
    rng: np.random.Generator,
    parameter: float | None = None,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> Estimate:
    """How much more the challenger is worth a round than the champion, from the same rows.

    What both share cancels row by row, so the error is that of where they differ. The lower end of the two-sided 95%
    interval is the one-sided 97.5% lower bound. Effective sample size and support are the smaller of the two, the
    largest weight the larger. Of a shrinking estimator the interval allows for the bias on both sides, which does not
    cancel: for policies that are alike take `dr`.

    Args:
        challenger: the log, with the challenger's probabilities and predictions.
        champion: the same rows, with the champion's.
        estimator: a name of ESTIMATORS or SHRINKING_ESTIMATORS.
        rng: of the bootstrap's resamples.
        parameter: of a shrinking estimator; None: chosen by cross-fitting over users.
        interval: None: normal, 95%.
        min_ess: effective sample size below which it warns.

    Raises: DataError: when rows, rewards, propensities or users are not the same on both sides.
    """
    _refuse_other_rows(LoggedActions, challenger, champion)
    settings = interval or IntervalSettings()
    refuse_unknown([estimator], (*ESTIMATORS, *SHRINKING_ESTIMATORS))
    _refuse_wrong_parameters({} if parameter is None else {estimator: parameter}, [estimator])
    _refuse_bernstein(settings)
    _refuse_unpaired(challenger, champion)
    one, other = (_Overlap.of_actions(side, min_ess) for side in (challenger, champion))
    ours, theirs = (_bracket(side, estimator, parameter, settings) for side in (challenger, champion))
    return _estimate(ours - theirs, f"{estimator} difference", one.worse_of(other), settings, rng)


def evaluate_slate_difference(
    challenger: LoggedSlates,
    champion: LoggedSlates,
    estimator: str = "cascade_dr",
    *,
    rng: np.random.Generator,
    interval: IntervalSettings | None = None,
    min_ess: float = MIN_ESS,
) -> Estimate:
    """How much more the challenger is worth a slate than the champion; as `evaluate_difference`."""
    _refuse_other_rows(LoggedSlates, challenger, champion)
    settings = interval or IntervalSettings()
    refuse_unknown([estimator], SLATE_ESTIMATORS)
    _refuse_bernstein(settings)
    _refuse_unpaired(challenger, champion)
    sides = (challenger, champion)
    one, other = (_Overlap.of_slates(side, estimator, min_ess) for side in sides)
    ours, theirs = (Bracket.unbiased(SLATE_ESTIMATORS[estimator](side)) for side in sides)
    return _estimate(ours - theirs, f"{estimator} difference", one.worse_of(other), settings, rng)


@final
@dataclass(frozen=True, slots=True)
class _Overlap:
    """How much the log says about the target policy, and whose rows they are."""

    codes: NDArray[np.int64]
    n_clusters: int
    ess: float
    max_weight: float
    support: float | None

    @classmethod
    def of_actions(cls, rounds: LoggedActions, min_ess: float) -> "_Overlap":
        """Of rounds; warns."""
        return cls._of(rounds.weights[:, None], rounds, rounds.support, min_ess, _OF_ACTIONS)

    @classmethod
    def of_slates(cls, slates: LoggedSlates, estimator: str, min_ess: float) -> "_Overlap":
        """Of whole slates, or for the position-wise forms of the position that counts least; warns."""
        if "position_wise" in estimator:
            return cls._of(slates.marginal_weights, slates, slates.marginal_support, min_ess, None)
        return cls._of(cascade_weights(slates)[:, -1:], slates, slates.support, min_ess, _OF_CASCADES)

    @classmethod
    def _of(
        cls,
        weights: Floats,
        logged: LoggedActions | LoggedSlates,
        support: float | None,
        min_ess: float,
        instead: str | None,
    ) -> "_Overlap":
        """Of weights (n, J), of which the worst column counts."""
        if not is_real(min_ess) or math.isnan(min_ess):
            raise ConfigError(f"a number is required, below which it warns; found {min_ess!r}", field="min_ess")
        refuse_low_support(support)
        columns = weights.T
        sizes = [diagnose(column).ess for column in columns]
        worst = int(np.argmin(sizes))
        codes, n_clusters = logged.codes()
        warn_of_overlap(
            columns[worst],
            codes,
            n_clusters,
            ess=sizes[worst],
            support=support,
            reproduced=isinstance(logged, LoggedSlates) and logged.reproduced,
            instead=instead,
            min_ess=min_ess,
        )
        return cls(codes, n_clusters, sizes[worst], float(weights.max()), support)

    def worse_of(self, other: "_Overlap") -> "_Overlap":
        """The lesser of what two say of the same rows."""
        known = [overlap.support for overlap in (self, other) if overlap.support is not None]
        return _Overlap(
            self.codes,
            self.n_clusters,
            min(self.ess, other.ess),
            max(self.max_weight, other.max_weight),
            min(known) if len(known) == 2 else None,
        )


def _estimate(
    bracket: Bracket, name: str, overlap: _Overlap, settings: IntervalSettings, rng: np.random.Generator
) -> Estimate:
    terms = bracket.value
    if (terms.denominator.sum(axis=0) <= 0).any():
        raise DataError(
            f"{name} divides by the sum of weights, which is 0: the target policy would have shown nothing of what was "
            "logged"
        )
    return Estimate(
        value=terms.value,
        std_error=std_error(terms, overlap.codes, overlap.n_clusters),
        interval=None if overlap.n_clusters < 2 else _interval(bracket, overlap, settings, rng),
        n=len(terms),
        n_clusters=overlap.n_clusters,
        ess=overlap.ess,
        max_weight=overlap.max_weight,
        support=overlap.support,
        estimator=name,
    )


def _interval(bracket: Bracket, overlap: _Overlap, settings: IntervalSettings, rng: np.random.Generator) -> Interval:
    """From the lower end of the interval around the bracket's low to the upper end of that around its high.

    Where the shrunk weights have a mean above 1, by chance or because propensities are too small, the ends of the
    bracket change places: then the interval around the estimate itself counts, too.
    """
    (low, high), (of_low, of_high) = bracket.ends, bracket.bounds or (None, None)
    around = _interval_of(low, of_low, overlap, settings, rng)
    if bracket.is_unbiased:
        return around
    found, value = [around, _interval_of(high, of_high, overlap, settings, rng)], bracket.value.value
    if not low.value <= value <= high.value:
        found.append(_interval_of(bracket.value, None, overlap, settings, rng))
    return replace(around, low=min(value, *(end.low for end in found)), high=max(value, *(end.high for end in found)))


def _interval_of(
    terms: Terms,
    bounds: tuple[float, float] | None,
    overlap: _Overlap,
    settings: IntervalSettings,
    rng: np.random.Generator,
) -> Interval:
    level, codes, n_clusters = settings.level, overlap.codes, overlap.n_clusters
    if settings.method == "empirical_bernstein" and bounds is not None:
        rows = terms.numerator[:, 0]
        return empirical_bernstein_interval(rows, codes, n_clusters, bounds=bounds, level=level)
    if settings.method == "bootstrap":
        n_resamples = settings.n_resamples
        return bootstrap_interval(terms, codes, n_clusters, level=level, n_resamples=n_resamples, rng=rng)
    error = std_error(terms, codes, n_clusters)
    assert error is not None
    return normal_interval(terms.value, error, n_clusters, level=level)


def _refuse_bernstein(settings: IntervalSettings) -> None:
    if settings.method == "empirical_bernstein":
        raise ConfigError(
            "slates and differences have no empirical Bernstein interval; take normal or bootstrap", field="method"
        )


def refuse_unknown(names: Sequence[str], known: Collection[str]) -> None:
    """Refuses estimators that there are not, that stand there twice, and none at all.

    Raises: ConfigError.
    """
    if isinstance(names, str):
        raise ConfigError(f"a list of estimators is required, such as [{names!r}]; found a string", field="estimators")
    if not isinstance(names, Sequence):
        raise ConfigError(f"a list of estimators is required; found {type(names).__name__}", field="estimators")
    there_are = f"there are {', '.join(known)}"
    if not names:
        raise ConfigError(f"name an estimator at least; {there_are}", field="estimators")
    for place, name in enumerate(names):
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"no estimator {name!r} here; {there_are}", field="estimators")
        if name in names[:place]:
            raise ConfigError(f"{name} is asked for twice: leave one out", field="estimators")


def _refuse_wrong_parameters(parameters: Mapping[str, float], estimators: Sequence[str]) -> None:
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"a dict by estimator is required; found {parameters!r}", field="parameters")
    for name, value in parameters.items():
        if name not in SHRINKING_ESTIMATORS:
            raise ConfigError(
                f"{name} has no parameter; those that have one are {', '.join(SHRINKING_ESTIMATORS)}",
                field="parameters",
            )
        if name not in estimators:
            raise ConfigError(
                f"{name} is not among the estimators asked for ({', '.join(estimators)}): add it, or leave its "
                "parameter out",
                field="parameters",
            )
        if not (is_real(value) and value >= 0):
            raise ConfigError(
                f"the parameter of {name} is a number, 0 or more (inf shrinks nothing); found {value!r}",
                field="parameters",
            )


def _refuse_other_rows(kind: type[LoggedActions | LoggedSlates], *given: object) -> None:
    for logged in given:
        if not isinstance(logged, kind):
            raise DataError(
                f"{kind.__name__} are required; found {type(logged).__name__}: evaluate and evaluate_difference take "
                "LoggedActions, evaluate_slates and evaluate_slate_difference LoggedSlates"
            )


def _refuse_unpaired(challenger: LoggedActions | LoggedSlates, champion: LoggedActions | LoggedSlates) -> None:
    for name in ("rewards", "propensities"):
        a, b = getattr(challenger, name), getattr(champion, name)
        if a.shape != b.shape:
            raise DataError(f"a paired difference needs the same rows on both sides; found {len(a)} and {len(b)}")
        if (a != b).any():
            row = int(np.argwhere(a != b)[0][0])
            raise DataError(
                f"a paired difference needs the same rows on both sides; found {a[row]} and {b[row]}",
                row=row,
                column=name,
            )
    if not np.array_equal(challenger.codes()[0], champion.codes()[0]):
        raise DataError("a paired difference needs the same users on both sides, in the same order", column="clusters")
