"""Arms of an experiment compared by what their users did: randomised by user, so users are the units of every error."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

from rec.data.rounds import Rounds
from rec.errors import ConfigError, DataError
from rec.ope.estimate import Interval, Terms, cluster_codes, std_error
from rec.ope.intervals import student_t_interval

# Below it the users were hardly divided as the shares say (Fabijan et al., 2019, doi:10.1145/3292500.3330722).
MISMATCH_P: Final = 0.001

Strings = NDArray[np.object_]
Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class ArmRequests:
    """Requests whose rewards are final, Q of them.

    Attributes: user_id, arm: (Q,). reward: of all that was shown, 0 where nothing was, (Q,). degraded: (Q,).
    """

    user_id: Strings
    arm: Strings
    reward: Floats
    degraded: NDArray[np.bool_]

    @classmethod
    def of(cls, rounds: Rounds, *, now_ms: int) -> Self:
        """The requests of a log that are old enough at a time; each earns what its whole slate does."""
        requests = rounds.requests
        reward = np.bincount(rounds.request, weights=rounds.reward, minlength=len(requests)).astype(np.float64)
        old = now_ms - requests.timestamp >= rounds.attribution_s * 1000
        return cls(requests.user_id[old], requests.arm[old], reward[old], requests.degraded[old])

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """The requests of a mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__slots__})


@final
@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """A metric of one arm; error and interval are clustered by user, and None with fewer than two."""

    value: float
    std_error: float | None
    interval: Interval | None
    n: int
    n_clusters: int


@final
@dataclass(frozen=True, slots=True)
class ArmDifference:
    """How much more an arm has than the baseline; `p_value` is two-sided, of this metric alone."""

    arm: str
    baseline: str
    metric: str
    difference: float
    std_error: float | None
    interval: Interval | None
    p_value: float | None


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms, and each against the baseline.

    Attributes:
        arms: metric by name, by arm.
        differences: of every other arm from the baseline, by metric.
        n_users: by arm.
        n_shared: users who were in more than one arm, as after a change of shares.
        mismatch_p: how likely users are divided so unlike the shares by chance; None without shares.
    """

    arms: dict[str, dict[str, ArmEstimate]]
    differences: list[ArmDifference]
    n_users: dict[str, int]
    n_shared: int
    mismatch_p: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    requests: ArmRequests,
    *,
    baseline: str,
    level: float = 0.95,
    shares: Mapping[str, float] | None = None,
) -> Comparison:
    """Every arm against the baseline.

    Metrics: reward_per_request; reward_per_user and requests_per_user, which also see users come more often or less;
    degraded, the share of degraded answers. Each is a ratio of sums over requests, with errors by the delta method,
    clustered by user; users who were in both arms count with the covariance of what they did in each. Quantiles are
    Student's, with the users of the smaller arm less 1 as degrees of freedom. An interval holds for one look, at a time
    that was fixed before.

    Args: shares: of the users each arm was to get, summing to 1.
    Raises: DataError: when the baseline has no request, or is the only arm. ConfigError: for shares of other arms.
    """
    names = sorted(set(requests.arm.tolist()), key=lambda arm: (arm != baseline, arm))
    if baseline not in names or len(names) < 2:
        raise DataError(
            f"two arms, {baseline!r} one of them, are needed; the requests that are old enough are of "
            f"{', '.join(map(repr, names)) or 'none'}",
            file="requests",
            column="arm",
        )
    codes, n_users = cluster_codes(requests.user_id)
    arms = {name: _Arm.of(requests, requests.arm == name, codes, n_users) for name in names}
    n_arms_of = sum((arm.present for arm in arms.values()), np.zeros(n_users, int))
    return Comparison(
        arms={
            name: {metric: _estimate(terms, arm, level) for metric, terms in arm.metrics.items()}
            for name, arm in arms.items()
        },
        differences=[
            _difference(name, baseline, metric, arms, level) for name in names[1:] for metric in arms[name].metrics
        ],
        n_users={name: arm.n_users for name, arm in arms.items()},
        n_shared=int((n_arms_of > 1).sum()),
        mismatch_p=None if not shares else _mismatch(arms, n_arms_of == 1, shares),
    )


@final
@dataclass(frozen=True, slots=True)
class _Arm:
    """The requests of one arm.

    Attributes: metrics: by name. codes: user of each request, among all users. present: the users it has, (U,).
    """

    metrics: dict[str, Terms]
    codes: NDArray[np.int64]
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, requests: ArmRequests, rows: NDArray[np.bool_], codes: NDArray[np.int64], n_users: int) -> Self:
        ours, theirs = requests.take(rows), codes[rows]
        per_user = np.bincount(theirs, minlength=n_users)
        ones, once = np.ones(len(ours)), 1.0 / per_user[theirs]
        metrics = {
            "reward_per_request": Terms.mean(ours.reward),
            "reward_per_user": Terms.ratios([(ours.reward, once)]),
            "requests_per_user": Terms.ratios([(ones, once)]),
            "degraded": Terms.mean(ours.degraded.astype(np.float64)),
        }
        return cls(metrics, theirs, per_user > 0)

    @property
    def n_users(self) -> int:
        return int(self.present.sum())

    def influence_of_users(self, metric: str) -> Floats:
        """How far each user moves the metric, (U,)."""
        terms = self.metrics[metric]
        return np.bincount(self.codes, weights=terms.influence(), minlength=len(self.present)) / len(terms)


def _estimate(terms: Terms, arm: _Arm, level: float) -> ArmEstimate:
    codes, n_users = cluster_codes(arm.codes)
    error = std_error(terms, codes, n_users)
    interval = None if error is None else student_t_interval(terms.value, error, n_users, level=level)
    return ArmEstimate(terms.value, error, interval, len(terms), n_users)


def _difference(name: str, baseline: str, metric: str, arms: Mapping[str, _Arm], level: float) -> ArmDifference:
    ours, theirs = (_estimate(arms[arm].metrics[metric], arms[arm], level) for arm in (name, baseline))
    value = ours.value - theirs.value
    if ours.std_error is None or theirs.std_error is None:
        return ArmDifference(name, baseline, metric, value, None, None, None)
    covariance = float(arms[name].influence_of_users(metric) @ arms[baseline].influence_of_users(metric))
    error = max(ours.std_error**2 + theirs.std_error**2 - 2 * covariance, 0.0) ** 0.5
    n_users = min(ours.n_clusters, theirs.n_clusters)
    if error == 0.0:
        p_value = 1.0 if value == 0.0 else 0.0
    else:
        p_value = 2 * float(stats.t.sf(abs(value) / error, n_users - 1))  # pyright: ignore[reportUnknownMemberType]
    interval = student_t_interval(value, error, n_users, level=level)
    return ArmDifference(name, baseline, metric, value, error, interval, p_value)


def _mismatch(arms: Mapping[str, _Arm], once: NDArray[np.bool_], shares: Mapping[str, float]) -> float:
    """Pearson's chi-squared test of how many users each arm got; those in several arms are left out."""
    if set(shares) != set(arms) or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(
            f"a share above 0 of each arm ({', '.join(arms)}), 1 together, is required; found {dict(shares)}",
            field="shares",
        )
    seen: Sequence[int] = [int((arm.present & once).sum()) for arm in arms.values()]
    expected = [shares[name] * sum(seen) for name in arms]
    return float(stats.chisquare(seen, expected).pvalue)  # pyright: ignore[reportUnknownMemberType]
