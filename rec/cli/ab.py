"""`tandem ab`: the arms of an experiment, from the log of the service."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from rec.config import Config, HomePath

if TYPE_CHECKING:
    from rec.ab import ArmDifference, ArmEstimate


class AbOptions(Config):
    """Which log, what each action is worth, and the arm that the others are compared with.

    Requests count that are `attribution_s` old at `now_ms`, by default now. `shares` are those of the users that each
    arm was to get: with them it is tested whether users were divided so.
    """

    home: HomePath
    baseline: str = "champion"
    rewards: dict[str, float] = Field(default_factory=dict)
    attribution_s: PositiveInt = 86_400
    since_ms: NonNegativeInt | None = None
    until_ms: NonNegativeInt | None = None
    now_ms: NonNegativeInt | None = None
    shares: dict[str, float] = Field(default_factory=dict)
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95


def run_ab(options: AbOptions) -> Mapping[str, Any]:
    """Prints and returns each arm's metrics, and their differences from the baseline."""
    from rec.ab import MISMATCH_P, ArmRequests, compare
    from rec.data.events import open_events
    from rec.data.rounds import read_rounds

    now_ms = int(time.time() * 1000) if options.now_ms is None else options.now_ms
    rounds = read_rounds(
        open_events(options.home),
        rewards=options.rewards,
        now_ms=now_ms,
        attribution_s=options.attribution_s,
        since_ms=options.since_ms,
        until_ms=options.until_ms,
    )
    requests = ArmRequests.of(rounds, now_ms=now_ms)
    found = compare(requests, baseline=options.baseline, level=options.level, shares=options.shares)
    for arm, metrics in found.arms.items():
        print(f"{arm}: {found.n_users[arm]:,} users, {metrics['degraded'].n:,} requests")
        for metric, estimate in metrics.items():
            print(f"  {metric:<20} {_told(estimate)}")
    for difference in found.differences:
        print(f"{difference.arm} - {difference.baseline}: {difference.metric:<20} {_told_difference(difference)}")
    warnings = []
    if found.n_shared:
        warnings.append(f"{found.n_shared:,} users were in more than one arm, as after a change of shares")
    if found.mismatch_p is not None and found.mismatch_p < MISMATCH_P:
        warnings.append(
            f"users are not divided as the shares say (p = {found.mismatch_p:.2g}): do not trust any difference before "
            "you know why"
        )
    for warning in warnings:
        print(f"warning: {warning}")
    return {
        "baseline": options.baseline,
        "now_ms": now_ms,
        **found.to_json(),
        "dropped": rounds.dropped,
        "warnings": warnings,
    }


def _told(estimate: "ArmEstimate") -> str:
    error = "" if estimate.std_error is None else f" ± {estimate.std_error:.4f}"
    return f"{estimate.value:.4f}{error}"


def _told_difference(difference: "ArmDifference") -> str:
    around = difference.interval
    if around is None:
        return f"{difference.difference:+.4f}, of too few users for an interval"
    return f"{difference.difference:+.4f} [{around.low:+.4f}, {around.high:+.4f}], p = {difference.p_value:.3g}"
