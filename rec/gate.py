"""The gate: whether a challenger may take the champion's place, from the champion's log and what must not get worse."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, final

import numpy as np

from rec.config import GateConfig
from rec.errors import ConfigError
from rec.ope import Estimate, IntervalSettings, evaluate_slate_difference, evaluate_slates
from rec.ope.logged import LoggedSlates

ESTIMATOR: Final = "cascade_dr"
# The lower end of this two-sided interval is the one-sided 97.5% bound.
LEVEL: Final = 0.95


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """What two policies are worth on the same requests.

    Attributes:
        challenger, champion: reward of a request under each.
        difference: how much more the challenger earns, paired by request.
    """

    challenger: Estimate
    champion: Estimate
    difference: Estimate

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made of it."""
        return cls(**{name: Estimate.from_json(estimate) for name, estimate in values.items()})


@final
@dataclass(frozen=True, slots=True)
class Health:
    """What a policy is like beside what it earns.

    Attributes:
        coverage: share of its catalogue in the slates it ranks highest.
        latency_ms: median time to find and rank the candidates of one request.
        calibration_error: expected calibration error of its probabilities, None where it predicts none.
    """

    coverage: float
    latency_ms: float
    calibration_error: float | None


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: what is looked at.
        found: None where it is not known, which fails.
        required: what it is held against.
        relation: how found must stand to required.
    """

    name: str
    found: float | None
    required: float
    relation: str

    @property
    def passed(self) -> bool:
        """Whether it holds; what is no number does not."""
        return self.found is not None and RELATIONS[self.relation](self.found, self.required)

    def __str__(self) -> str:
        found = "unknown" if self.found is None else f"{self.found:.4g}"
        return f"{self.name} {found}, required {self.relation} {self.required:.4g}"


RELATIONS: Final = {
    ">": lambda found, required: found > required,
    ">=": lambda found, required: found >= required,
    "<=": lambda found, required: found <= required,
}


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger is promoted, and why not.

    Attributes:
        checks: all conditions, in the order in which they are told.
        refusal: why nothing could be estimated, None where it could.
    """

    checks: tuple[Check, ...]
    refusal: str | None = None

    @classmethod
    def refused(cls, reason: str) -> Self:
        """Of a log that cannot tell."""
        return cls((), reason)

    @property
    def promote(self) -> bool:
        """Whether everything holds."""
        return self.refusal is None and bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What does not hold."""
        return [self.refusal] if self.refusal else [str(check) for check in self.checks if not check.passed]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"promote": self.promote, "reasons": self.reasons, "checks": checks}


def compare(challenger: LoggedSlates, champion: LoggedSlates, *, rng: np.random.Generator) -> Comparison:
    """Two policies on the same requests, by doubly robust estimates of whole slates, cross-fitted over users.

    The estimator is `cascade_dr`: unbiased where what an item earns depends on the items above it, but not on those
    below, whatever the reward model predicts. What both policies share cancels in the difference.

    Args: challenger, champion: requests from after the training of both, as `rec.ope.slate_log.logged_slates` makes
        them of what each policy would rank. rng: of the estimators, none of which draws.
    Raises: SupportError: when the log could not have shown what one of them shows.
    """
    interval = IntervalSettings(level=LEVEL)
    one, other = (
        evaluate_slates(side, [ESTIMATOR], rng=rng, interval=interval)[ESTIMATOR] for side in (challenger, champion)
    )
    return Comparison(
        one, other, evaluate_slate_difference(challenger, champion, ESTIMATOR, rng=rng, interval=interval)
    )


def judge(comparison: Comparison, n_impressions: int, config: GateConfig) -> list[Check]:
    """What must hold of the estimate.

    Args: n_impressions: that it is from.
    Raises: ConfigError: when its interval is not the one whose lower end the gate goes by.
    """
    difference = comparison.difference
    interval = difference.interval
    if interval is not None and interval.level != LEVEL:
        raise ConfigError(
            f"the gate goes by the lower end of a {LEVEL:.0%} interval; found one of level {interval.level}",
            field="level",
        )
    return [
        Check("lower bound of the gain", None if interval is None else interval.low, config.margin, ">"),
        Check("effective sample size", difference.ess, config.min_ess, ">="),
        Check("support", difference.support, config.min_support, ">="),
        Check("impressions", n_impressions, config.min_impressions, ">="),
    ]


def guard(challenger: Health, champion: Health, config: GateConfig) -> list[Check]:
    """What must not get much worse; without probabilities on both sides there is no check of their calibration."""
    coverage = challenger.coverage / champion.coverage if champion.coverage else None
    latency = challenger.latency_ms / champion.latency_ms if champion.latency_ms else None
    checks = [
        Check("coverage, times the champion's", coverage, config.min_coverage_ratio, ">="),
        Check("latency, times the champion's", latency, config.max_latency_ratio, "<="),
    ]
    ours, theirs = challenger.calibration_error, champion.calibration_error
    if ours is not None and theirs is not None:
        checks.append(Check("rise of the calibration error", ours - theirs, config.max_calibration_rise, "<="))
    return checks


def decide(*checks: Sequence[Check]) -> Verdict:
    """The verdict of several lists of conditions."""
    return Verdict(tuple(check for each in checks for check in each))
