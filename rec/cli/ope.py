"""`tandem ope`: what a policy would earn, from the log of another."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rec.cli.ope_options import refuse_file_as_home, refuse_ignored, refuse_unwritable
from rec.config import LOGGED_POLICY, OpeConfig
from rec.errors import ConfigError, DataError, SupportError

if TYPE_CHECKING:
    from rec.data.events import EventTables
    from rec.data.rounds import Rounds
    from rec.ope import Estimate, IntervalSettings
    from rec.ope.estimate import Floats
    from rec.ope.slate_log import SlateLog
    from rec.ope.slate_policy import SlatePolicy
    from rec.recommender import Recommender
    from rec.weights import WeightDiagnostics

_TWO_USERS: Final = "standard errors and intervals take users as the units, so at least two are needed"


def run_ope(options: OpeConfig, home: str) -> Mapping[str, Any]:
    """Prints and returns the estimates; warnings of thin overlap are printed and returned, too."""
    from rec.ope import IntervalSettings
    from rec.ope.plot import write_plot
    from rec.ope.support import shown_weight

    refuse_ignored(options)
    refuse_unwritable(options.plot, options.table)
    if options.table is None:
        refuse_file_as_home(home)
    settings = IntervalSettings(
        options.interval,
        options.level,
        reward_range=options.reward_range,
        weight_bound=options.weight_bound,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = _of_events(options, home, settings) if options.table is None else _of_table(options, settings)
    told = list(dict.fromkeys(str(warning.message) for warning in caught if _is_ours(warning.category)))
    target, weights = f"{found.answer['target']}, {found.policy}", found.weights
    print(f"target {target}: {len(found.estimates)} estimates; the logging policy earned {found.earned.value:.4f}")
    print(f"{'logged':<18} {_told(found.earned)}")
    for name, estimate in found.estimates.items():
        print(f"{name:<18} {_told(estimate)}")
    print("more than the logging policy, paired by row:")
    for name, difference in found.differences.items():
        print(f"{name:<18} {_difference(difference)}")
    largest = shown_weight(weights.max)
    print(f"weights: mean {weights.mean:#.4g}, largest {largest}, ess {weights.ess:,.0f} of {weights.n:,}")
    if found.dropped:
        print("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items()))
    if weights.max < 1 + 1e-9 and weights.mean > 1 - 1e-9:
        print("every weight is 1: the target is the policy that logged, so its value is what was earned")
    for message in told:
        print(f"warning: {message}")
    if options.plot is not None:
        title = f"Value of {found.answer['target']}<br><sup>{found.policy}</sup>"
        write_plot(found.estimates, title, Path(options.plot), reference=found.earned.value)
        print(f"wrote {options.plot}")
    return {
        **found.answer,
        "dropped": found.dropped,
        "logged_value": found.earned.value,
        "logged": found.earned.to_json(),
        "estimates": {name: estimate.to_json() for name, estimate in found.estimates.items()},
        "differences": {name: difference.to_json() for name, difference in found.differences.items()},
        "weights": asdict(weights),
        "warnings": told,
    }


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """Estimates, and what they are of.

    Attributes:
        answer: what was evaluated, as printed in JSON.
        policy: what the target is, beside its name.
        estimates: by estimator.
        differences: from the logging policy, by estimator.
        earned: by the logging policy, a row, with an interval by Student's t.
        weights: of rounds, or of whole slates.
        dropped: rows of the log that are in no estimate, by reason.
    """

    answer: dict[str, Any]
    policy: str
    estimates: "dict[str, Estimate]"
    differences: "dict[str, Estimate]"
    earned: "Estimate"
    weights: "WeightDiagnostics"
    dropped: dict[str, int]


def _of_table(options: OpeConfig, settings: "IntervalSettings") -> _Evaluated:
    from rec.ope import ESTIMATORS, SHRINKING_ESTIMATORS, evaluate, evaluate_over_logged, logged_value
    from rec.ope.arguments import refuse_unknown
    from rec.ope.estimators import NEED_PREDICTIONS
    from rec.ope.evaluation import possible_estimators
    from rec.ope.table_file import from_file
    from rec.weights import diagnose

    file = str(options.table)
    if options.estimators:
        refuse_unknown(options.estimators, [*ESTIMATORS, *SHRINKING_ESTIMATORS])
    rounds = from_file(file, options.columns)
    if rounds.codes()[1] < 2:
        raise DataError(
            f"{_TWO_USERS}; all {len(rounds)} rows are of one: collect more, or say --columns.user-id None where every "
            "row is a user of its own",
            file=file,
            column=options.columns.user_id,
        )
    predicted = rounds.q_logged is not None and rounds.q_target is not None
    lacking = [name for name in options.estimators if name in NEED_PREDICTIONS and not predicted]
    if lacking:
        raise ConfigError(
            f"{lacking[0]} needs predicted rewards as columns of the table: name them with --columns.q-logged, that of "
            "the item shown, and --columns.q-target, their mean under the policy under evaluation, by a model that has "
            f"not seen the row's user; without them there are {', '.join(possible_estimators(rounds, settings))}",
            file=file,
            field="columns.q_logged" if rounds.q_logged is None else "columns.q_target",
        )
    rng = np.random.default_rng(options.seed)
    try:
        estimates = evaluate(rounds, options.estimators or None, rng=rng, interval=settings)
        differences = evaluate_over_logged(rounds, list(estimates), rng=rng, interval=settings)
    except DataError as error:
        raise DataError(error.message, file=error.file or file, row=error.row, column=error.column) from error
    return _Evaluated(
        {"target": options.columns.target_p, "logging_versions": [], "table": file},
        f"the probabilities of this column of {file}",
        estimates,
        differences,
        logged_value(rounds.rewards, *rounds.codes(), level=settings.level),
        diagnose(rounds.weights),
        {},
    )


def _of_events(options: OpeConfig, home: str, settings: "IntervalSettings") -> _Evaluated:
    from rec.ope import SLATE_ESTIMATORS, evaluate_slate_difference, evaluate_slates, logged_value
    from rec.ope.arguments import refuse_unknown
    from rec.ope.marginals import marginal_probabilities
    from rec.ope.slate_log import logged_slates
    from rec.ope.slates import cascade_weights
    from rec.recommender import Recommender
    from rec.weights import diagnose

    if not options.rewards:
        raise ConfigError(
            "say what each action is worth, such as --rewards watched 1 skipped 0, or in --config", field="rewards"
        )
    estimators = options.estimators or None
    if estimators is not None:
        refuse_unknown(estimators, SLATE_ESTIMATORS)
    recommender = None
    if options.target != LOGGED_POLICY:
        recommender = Recommender.load(home, None if options.target == "current" else options.target)
    now_ms = int(time.time() * 1000) if options.now_ms is None else options.now_ms
    log, dropped = _log(options, home, recommender, now_ms)
    target, about = _target(options, recommender, log)
    rng = np.random.default_rng(options.seed)
    marginals = unchanged = None
    if any("position_wise" in estimator for estimator in options.estimators):
        ours, theirs = (marginal_probabilities(policy, log, rng=rng) for policy in (log.logging, target))
        marginals, unchanged = (ours, theirs), (ours, ours)
    worth = _position_weights(options, log.slate.shape[1])
    slates = logged_slates(log, target, rng=rng, marginals=marginals, position_weights=worth)
    try:
        estimates = evaluate_slates(slates, estimators, rng=rng, interval=settings)
    except SupportError as error:
        which = "" if error.row is None else f" (row {error.row} is request {str(log.request_id[error.row])!r})"
        raise SupportError(f"{error.message}{which}", file="impressions", column=error.column) from error
    as_logged = logged_slates(log, log.logging, rng=rng, marginals=unchanged, position_weights=worth)
    with warnings.catch_warnings():
        # What the log lacks is said of the estimates themselves.
        warnings.simplefilter("ignore")
        differences = {
            name: evaluate_slate_difference(slates, as_logged, name, rng=rng, interval=settings) for name in estimates
        }
    drawn_with = _drawn_with(options, target)
    answer = {
        "target": LOGGED_POLICY if recommender is None else recommender.version,
        "logging_versions": sorted(set(log.policy_version.tolist())),
        "drawn_with": drawn_with,
        "now_ms": now_ms,
        "n_requests": len(log),
        "n_without_candidates": log.n_without,
        "n_incomplete_slates": log.n_incomplete,
        **about,
    }
    left_out = {"requests_without_candidates": log.n_without, "incomplete_slates": log.n_incomplete}
    return _Evaluated(
        answer,
        "drawn with " + ", ".join(f"{name} {_range(**values)}" for name, values in drawn_with.items()),
        estimates,
        differences,
        earned=logged_value(slates.gains.sum(axis=1), *slates.codes(), level=settings.level),
        weights=diagnose(cascade_weights(slates)[:, -1]),
        dropped=dropped | {reason: count for reason, count in left_out.items() if count},
    )


def _log(
    options: OpeConfig, home: str, recommender: "Recommender | None", now_ms: int
) -> "tuple[SlateLog, dict[str, int]]":
    """The slates that can tell what the target is worth, and how many rows of the log are in none, by reason."""
    from rec.bundle_policy import first_fair_ms, logged_cap
    from rec.data.events import EventTables
    from rec.data.rounds import read_rounds
    from rec.ope.slate_log import slate_log
    from rec.storage import Home

    events = EventTables(Home(home))
    since_ms = options.since_ms
    if recommender is not None:
        since_ms = first_fair_ms(recommender, since_ms)
        if options.until_ms is not None and since_ms >= options.until_ms:
            raise ConfigError(
                f"bundle {recommender.version} knows what happened before {since_ms} ms, so only later requests can "
                f"judge it; found {options.until_ms}: leave until_ms out, or give a later one",
                field="until_ms",
            )
    rounds = read_rounds(
        events,
        rewards=options.rewards,
        now_ms=now_ms,
        attribution_s=options.attribution_s,
        since_ms=since_ms,
        until_ms=options.until_ms,
    )
    if not options.allow_no_feedback:
        _refuse_silence(events)
    if not len(rounds):
        raise DataError(
            f"the log holds no impression that is old enough to be judged{_asked(since_ms, options.until_ms)}"
            + ("" if recommender is None else ": a bundle knows the earlier ones")
            + f"; {_period(events)}, and it is judged at {now_ms} ms. Left out: "
            + (", ".join(f"{count} {reason}" for reason, count in rounds.dropped.items()) or "nothing else"),
            file=events.uri("impressions"),
        )
    _warn_of_silence(rounds)
    log = slate_log(rounds, cap=logged_cap(Home(home), rounds.policy_version.tolist()))
    if len(set(log.user_id.tolist())) < 2:
        raise DataError(
            f"{_TWO_USERS}; all {len(log)} requests are of {str(log.user_id[0])!r}: log more of them",
            file=events.uri("requests"),
            column="user_id",
        )
    return log, rounds.dropped


def _target(
    options: OpeConfig, recommender: "Recommender | None", log: "SlateLog"
) -> "tuple[SlatePolicy, dict[str, Any]]":
    """The policy under evaluation, and what the answer says of it: the logged one, or a bundle, drawn from as asked."""
    from rec.bundle_policy import bundle_policy, warn_of_other_catalogue

    n, logging = len(log), log.logging
    epsilon = logging.epsilon if options.epsilon is None else np.full(n, options.epsilon)
    temperature = logging.temperature if options.temperature is None else np.full(n, options.temperature)
    if recommender is None:
        return replace(logging, epsilon=epsilon, temperature=temperature), {}
    about = warn_of_other_catalogue(recommender, log)
    return bundle_policy(recommender, log, epsilon=epsilon, temperature=temperature), about


def _drawn_with(options: OpeConfig, target: "SlatePolicy") -> dict[str, dict[str, Any]]:
    """How the target draws from what it ranks: as asked for, or as each request was logged."""
    told = {}
    for name in ("epsilon", "temperature"):
        values = getattr(target, name)
        as_logged = getattr(options, name) is None
        told[name] = {"low": float(values.min()), "high": float(values.max()), "as_logged": as_logged}
    return told


def _range(low: float, high: float, *, as_logged: bool) -> str:
    return (f"{low:g}" if low == high else f"{low:g} to {high:g}") + (" (as logged)" if as_logged else "")


def _refuse_silence(events: "EventTables") -> None:
    """Refuses a log without feedback.

    Raises: DataError: naming the table.
    """
    found = "no table of feedback" if events.versions()["feedback"] is None else "a table of feedback without a row"
    if not len(events.read("feedback", columns=["event_id"])):
        raise DataError(
            f"the log has {found}, so every reward would be 0; collect feedback, or say --allow-no-feedback where "
            "silence is the answer",
            file=events.uri("feedback"),
        )


def _asked(since_ms: int | None, until_ms: int | None) -> str:
    limits = [f"at or after {since_ms} ms"] if since_ms is not None else []
    limits += [f"before {until_ms} ms"] if until_ms is not None else []
    return f", of a request {' and '.join(limits)}" if limits else ""


def _period(events: "EventTables") -> str:
    times = events.read("requests", columns=["timestamp"])["timestamp"].to_numpy()
    return f"its requests are from {times.min()} to {times.max()} ms" if len(times) else "it holds no request"


def _warn_of_silence(rounds: "Rounds") -> None:
    from rec.ope import OverlapWarning

    if rounds.answered_at is not None and not rounds.answered_at.any():
        warnings.warn(
            f"none of the {len(rounds)} impressions was answered in time, so every reward is 0 and the estimates say "
            "nothing about what people liked",
            OverlapWarning,
            stacklevel=2,
        )


def _position_weights(options: OpeConfig, n_positions: int) -> "Floats | None":
    given = options.position_weights
    if not given:
        return None
    if len(given) != n_positions or min(given) < 0:
        raise ConfigError(
            f"a weight of 0 or more for each of the {n_positions} positions of the longest slate is needed; found "
            f"{len(given)}: {', '.join(map(str, given))}",
            field="position_weights",
        )
    return np.array(given)


def _told(estimate: "Estimate") -> str:
    from rec.metrics import format_estimate
    from rec.ope.support import shown_weight

    around = estimate.interval
    interval = "" if around is None else f" [{around.low:.4f}, {around.high:.4f}]"
    support = "" if estimate.support is None else f"  support {estimate.support:.3f}"
    size = f"ess {estimate.ess:,.0f} of {estimate.n:,}, {estimate.n_clusters:,} users"
    weight = f"max weight {shown_weight(estimate.max_weight)}"
    return f"{format_estimate(estimate.to_json())}{interval}  {size}, {weight}{support}"


def _difference(estimate: "Estimate") -> str:
    error = "" if estimate.std_error is None else f" ± {estimate.std_error:.4f}"
    around = estimate.interval
    return f"{estimate.value:+.4f}{error}" + ("" if around is None else f" [{around.low:+.4f}, {around.high:+.4f}]")


def _is_ours(category: type[Warning]) -> bool:
    from rec.ope import OverlapWarning

    return issubclass(category, OverlapWarning)
