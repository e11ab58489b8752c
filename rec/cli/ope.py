"""`tandem ope`: what a policy would earn, from the log of another."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rec.config import LOGGED_POLICY, OpeConfig
from rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rec.ope import Estimate, IntervalSettings


def run_ope(options: OpeConfig, home: str) -> Mapping[str, Any]:
    """Prints and returns the estimates; warnings of thin overlap are printed and returned, too."""
    from rec.ope import IntervalSettings
    from rec.ope.plot import write_plot

    settings = IntervalSettings(
        options.interval,
        options.level,
        reward_range=options.reward_range,
        weight_bound=options.weight_bound,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate = _of_events if options.table is None else _of_table
        answer, estimates, earned = evaluate(options, home, settings)
    told = list(dict.fromkeys(str(warning.message) for warning in caught if _is_ours(warning.category)))
    print(f"target {answer['target']}: {len(estimates)} estimates; the logging policy earned {earned:.4f}")
    for name, estimate in estimates.items():
        print(f"{name:<18} {_told(estimate)}")
    for message in told:
        print(f"warning: {message}")
    if options.plot is not None:
        write_plot(estimates, f"Value of {answer['target']}", Path(options.plot), reference=earned)
        print(f"wrote {options.plot}")
    return {
        **answer,
        "logged_value": earned,
        "estimates": {name: estimate.to_json() for name, estimate in estimates.items()},
        "warnings": told,
    }


Evaluated = tuple[dict[str, Any], "dict[str, Estimate]", float]


def _of_table(options: OpeConfig, home: str, settings: "IntervalSettings") -> Evaluated:
    import pandas as pd

    from rec.ope import ESTIMATORS, SHRINKING_ESTIMATORS, evaluate
    from rec.ope.estimators import NEED_PREDICTIONS
    from rec.ope.inputs import from_frame

    path = Path(str(options.table))
    if path.suffix not in (".parquet", ".csv"):
        raise ConfigError("a table is a .parquet or a .csv file", file=str(path), field="table")
    if not path.is_file():
        raise DataError("there is no such file; check the path", file=str(path))
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    try:
        rounds = from_frame(frame, options.columns)
    except DataError as error:
        raise DataError(error.message, file=str(path), row=error.row, column=error.column) from error
    possible = [
        name
        for name in (*ESTIMATORS, *SHRINKING_ESTIMATORS)
        if name not in NEED_PREDICTIONS or rounds.q_target is not None
    ]
    rng = np.random.default_rng(options.seed)
    estimates = evaluate(rounds, options.estimators or possible, rng=rng, interval=settings)
    answer = {"target": options.columns.target_p, "logging_versions": [], "table": str(path)}
    return answer, estimates, float(rounds.rewards.mean())


def _of_events(options: OpeConfig, home: str, settings: "IntervalSettings") -> Evaluated:
    from dataclasses import replace

    from rec.bundle_policy import bundle_policy, first_fair_ms
    from rec.data.events import EventTables
    from rec.data.rounds import read_rounds
    from rec.ope import evaluate_slates
    from rec.ope.marginals import marginal_probabilities
    from rec.ope.slate_log import logged_slates, slate_log
    from rec.recommender import Recommender
    from rec.storage import Home

    if not options.rewards:
        raise ConfigError(
            "say what each action is worth, such as --rewards watched 1 skipped 0, or in --config", field="rewards"
        )
    recommender = None
    if options.target != LOGGED_POLICY:
        recommender = Recommender.load(home, None if options.target == "current" else options.target)
    since_ms = options.since_ms if recommender is None else first_fair_ms(recommender, options.since_ms)
    rounds = read_rounds(
        EventTables(Home(home)),
        rewards=options.rewards,
        now_ms=int(time.time() * 1000),
        attribution_s=options.attribution_s,
        since_ms=since_ms,
        until_ms=options.until_ms,
        young="none",
    )
    if not len(rounds):
        later = (
            "" if recommender is None else f", of a request at or after {since_ms} ms: a bundle knows the earlier ones"
        )
        raise DataError(f"the log holds no impression that is old enough to be judged{later}", file=home)
    log = slate_log(rounds)
    logging, n = log.logging, len(log)
    drawn = {
        "epsilon": logging.epsilon if options.epsilon is None else np.full(n, options.epsilon),
        "temperature": logging.temperature if options.temperature is None else np.full(n, options.temperature),
    }
    if recommender is None:
        target, name = replace(logging, **drawn), LOGGED_POLICY
    else:
        ranked = bundle_policy(recommender, log, epsilon=0.0, temperature=0.0)
        target, name = replace(ranked, **drawn), recommender.version
    estimators = options.estimators or ("cascade", "sn_cascade", "cascade_dr")
    rng = np.random.default_rng(options.seed)
    marginals = None
    if any("position_wise" in estimator for estimator in estimators):
        ours, theirs = (marginal_probabilities(policy, log, rng=rng) for policy in (logging, target))
        marginals = (ours, theirs)
    slates = logged_slates(log, target, marginals=marginals)
    estimates = evaluate_slates(slates, estimators, rng=rng, interval=settings)
    answer = {
        "target": name,
        "logging_versions": sorted(set(log.policy_version.tolist())),
        "n_requests": n,
        "n_without_candidates": log.n_without,
    }
    return answer, estimates, float(slates.gains.sum(axis=1).mean())


def _told(estimate: "Estimate") -> str:
    from rec.metrics import format_estimate

    around = estimate.interval
    interval = "" if around is None else f" [{around.low:.4f}, {around.high:.4f}]"
    support = "" if estimate.support is None else f"  support {estimate.support:.3f}"
    size = f"ess {estimate.ess:,.0f} of {estimate.n:,}, {estimate.n_clusters:,} users"
    return f"{format_estimate(estimate.to_json())}{interval}  {size}, max weight {estimate.max_weight:.1f}{support}"


def _is_ours(category: type[Warning]) -> bool:
    from rec.ope import OverlapWarning

    return issubclass(category, OverlapWarning)
