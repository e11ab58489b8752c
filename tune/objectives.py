"""What a trial of training is judged by: validation, which is the last part of the training period."""

from collections.abc import Callable
from typing import Final

import numpy as np

from rec.bundle_policy import bundle_policy, logged_cap
from rec.config import TrainConfig
from rec.data.dataset import Dataset
from rec.data.event_rows import SCHEMAS
from rec.data.events import FOLDER, EventTables
from rec.data.logged import rewards_of
from rec.data.rounds import read_rounds
from rec.errors import ConfigError
from rec.evaluation import TopK, evaluate, lists_of
from rec.metrics import MetricEstimate
from rec.ope import evaluate_slates
from rec.ope.slate_log import logged_slates, slate_log
from rec.pipeline import known_at_starts, train_anew, two_tower_source, validation_period
from rec.preparation import Prepared, prepare, snapshot_at
from rec.recommender import Recommender
from rec.retriever.fits import LIKES, fit_retriever
from rec.retriever.off_policy_task import ESS, SNIPS, SNIPS_ERROR, SNIPS_LOW
from rec.retriever.task import VALID_METRIC
from rec.runs import Runs
from rec.storage import Home
from tune.config import Judge
from tune.trials import Judged, Measured

ESTIMATOR: Final = "sn_cascade"


def judged_fit(config: TrainConfig) -> str:
    """The name of the fit whose epochs are judged as the retriever is."""
    return f"retriever-{len(config.ranker.period_fractions) - 1}"


def epoch_score(config: TrainConfig, metrics: dict[str, float]) -> float:
    """What decides between epochs."""
    return metrics[VALID_METRIC if config.retriever.objective in LIKES else SNIPS_LOW]


def refuse_unjudged(config: TrainConfig, judge: Judge, *, asha: bool) -> None:
    """Refuses to judge by what is not there.

    Raises: ConfigError: naming what to take.
    """
    objective = config.retriever.objective
    if judge == "retriever" and objective in ("regression", "two_stage_ips"):
        why = {
            "regression": "a regression is no policy whose reward could be estimated",
            "two_stage_ips": "what two_stage_ips learns shows behind a ranker",
        }[objective]
        raise ConfigError(f"{why}: take judge both, or policy", field="judge")
    if judge == "policy" and config.data.name != "events":
        raise ConfigError(
            f"a policy is judged by a log of slates, data events; found {config.data.name}: take judge both",
            field="judge",
        )
    if asha and judge != "retriever":
        raise ConfigError(
            f"asha stops by epochs of the retriever, and {judge} is judged at the end: take judge retriever, or "
            "scheduler fifo",
            field="scheduler",
        )
    if config.incremental.parent is not None:
        raise ConfigError("a search trains anew; leave the parent out", field="incremental.parent")
    if config.incremental.catalogue is not None:
        raise ConfigError("a search has nothing withdrawn; leave the catalogue out", field="incremental.catalogue")


def judge_retriever(dataset: Dataset, config: TrainConfig, runs: Runs) -> Judged:
    """The two-tower model of before the validation period, by what was liked in it, or as a policy by its rounds."""
    ready = prepare(dataset, config)
    last = len(ready.period_starts) - 2
    fitted = fit_retriever(runs, ready, last)
    if config.retriever.objective not in LIKES:
        best = fitted.progress.best
        return Judged(Measured(SNIPS, best[SNIPS], best[SNIPS_ERROR], best[ESS], best[SNIPS_LOW]), None)
    source = two_tower_source(snapshot_at(ready, config, ready.period_starts[last]), fitted, config)
    return _by_likes(ready, config, lists_of(source))


def judge_both(dataset: Dataset, config: TrainConfig, runs: Runs) -> Judged:
    """Both stages of before the validation period, by what was liked in it."""
    ready = prepare(dataset, config)
    return _by_likes(ready, config, _judged(runs, ready, config).top_k)


def judge_policy(dataset: Dataset, config: TrainConfig, runs: Runs) -> Judged:
    """Both stages of before the validation period, by what their slates would have earned in it.

    Slates are drawn as the log's were, by the same epsilon and temperature. The score is the lower end of the 95%
    interval.
    """
    ready = prepare(dataset, config)
    recommender = _judged(runs, ready, config)
    assert config.data.path is not None
    home = Home(config.data.path)
    events = EventTables(home)
    # As they were when the data set was read, so that all trials are judged by the same rows.
    versions = {table: dataset.tables.get(f"{FOLDER}/{table}") for table in SCHEMAS}
    rounds = read_rounds(
        events,
        rewards=rewards_of(events.read("feedback", version=versions["feedback"]), config.data),
        # What was known when training ends: later answers are the test's.
        now_ms=ready.period_starts[-1],
        attribution_s=config.data.attribution_s,
        since_ms=ready.period_starts[-2],
        until_ms=ready.period_starts[-1],
        versions=versions,
    )
    log = slate_log(rounds, cap=logged_cap(home, rounds.policy_version.tolist()))
    rng = np.random.default_rng(config.seed)
    policy = bundle_policy(recommender, log, epsilon=log.logging.epsilon, temperature=log.logging.temperature)
    found = evaluate_slates(logged_slates(log, policy, rng=rng), [ESTIMATOR], rng=rng)[ESTIMATOR]
    low = found.value if found.interval is None else found.interval.low
    return Judged(Measured(ESTIMATOR, found.value, found.std_error, found.ess, low), None)


JUDGES: Final[dict[Judge, Callable[[Dataset, TrainConfig, Runs], Judged]]] = {
    "retriever": judge_retriever,
    "both": judge_both,
    "policy": judge_policy,
}


def _judged(runs: Runs, ready: Prepared, config: TrainConfig) -> Recommender:
    # Counted here: tasks of its own would wait for CPUs that the trial holds. Their number changes no result.
    here = config.model_copy(update={"sources": config.sources.model_copy(update={"tasks": 1})})
    snapshots, counted, _ = known_at_starts(ready, here)
    return train_anew(runs, ready, snapshots, counted).judged


def _by_likes(ready: Prepared, config: TrainConfig, lists: TopK) -> Judged:
    period = validation_period(ready, snapshot_at(ready, config, ready.period_starts[-2]))
    report = evaluate({"": lists}, period, metrics=(VALID_METRIC,))
    found: MetricEstimate = report.models[""][VALID_METRIC]
    measured = Measured(VALID_METRIC, found.value, found.std_error, found.n, found.value)
    return Judged(measured, report.values[""][VALID_METRIC])
