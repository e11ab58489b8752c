"""A bundle judged beside baselines on the period that was held out when it was trained."""

import time
from typing import Any, Final

from rec.bundle import UPDATE_OF, trained_config
from rec.config import DataConfig, EvaluationConfig
from rec.data.dataset import Dataset
from rec.errors import ConfigError, DataError
from rec.evaluation import EvaluationPeriod, EvaluationReport, evaluate, lists_of, recommend
from rec.exposure import exposure
from rec.item_groups import ItemGroups
from rec.preparation import Prepared, prepare
from rec.ranking.calibration import held_out_calibration
from rec.recommender import Recommender
from rec.registry import Registry
from rec.retrieval.baselines import fit_baselines
from rec.retrieval.blend import Blend
from rec.source_report import SourceReport
from rec.storage import Home

TWO_STAGE: Final = "two_stage"
RETRIEVER: Final = "retriever"
# Items a user in the lists whose exposure is reported.
EXPOSED: Final = 10


def trained_on(location: str, version: str | None) -> DataConfig:
    """The data a bundle was trained on, as its manifest says."""
    return trained_config(Registry(Home(location)).open(version).manifest).data


def evaluate_bundle(
    dataset: Dataset, config: EvaluationConfig, location: str, version: str | None = None
) -> dict[str, Any]:
    """Judges a bundle and the baselines on the period held out when it was trained; the JSON of `tandem evaluate`.

    Raises: DataError: when the data are not those the bundle was trained on. ConfigError: when it was trained on all.
    """
    started = time.perf_counter()
    bundle = Registry(Home(location)).open(version)
    trained = bundle.manifest.tables
    if trained.get(dataset.name) != dataset.sha256:
        raise DataError(
            f"these are not the data that model {bundle.version} was trained on: {dataset.name} has sha256 "
            f"{dataset.sha256}, the model says {trained}; give the same data, or train again"
        )
    if UPDATE_OF in trained:
        raise DataError(
            f"model {bundle.version} has another catalogue than the data: it is an update of {trained[UPDATE_OF]}, of "
            "the same weights; evaluate that"
        )
    recommender = Recommender.from_bundle(bundle)
    if recommender.config.split.kind == "none":
        raise ConfigError(
            f"model {bundle.version} was trained on all the data, so none is left to judge it by; evaluate a model of "
            "the same config trained with another split",
            field="split.kind",
        )
    report, ready, period = report_on(recommender, dataset, config)
    split_config = recommender.config.split
    more: dict[str, Any] = {"notes": what_differs(recommender)}
    calibrated = held_out_calibration(recommender, ready)
    if calibrated is not None:
        more["calibration"] = calibrated.to_json()
    column = config.exposure or recommender.config.rules.cap_column
    if column is not None:
        more["exposure"] = _exposure(recommender, period, column)
    if config.sources:
        n_candidates = recommender.config.ranker.n_candidates
        more["sources"] = SourceReport.of(recommender.source, period, n_candidates).to_json()
    return {
        "version": recommender.version,
        "split": {
            "kind": split_config.kind,
            "period": "test",
            "cut_ms": ready.split.cut_ms,
            "n_users": len(period),
            "n_rows": len(ready.split.test),
        },
        **report.to_json(),
        **more,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _exposure(recommender: Recommender, period: EvaluationPeriod, column: str) -> dict[str, Any]:
    """What the lists of both stages show of each group, beside what the users went on to like."""
    groups = ItemGroups.of(recommender.snapshot.item_table, column, field="exposure")
    models = {TWO_STAGE: recommender.top_k, RETRIEVER: lists_of(recommender.source)}
    lists = {name: recommend(model, period, EXPOSED, name=name) for name, model in models.items()}
    found = exposure(groups, {**lists, "liked": period.relevant})
    for name, items in lists.items():
        found["models"][name]["items_a_list"] = float((items >= 0).sum(axis=1).mean())
    return {"k": EXPOSED, **found}


def what_differs(recommender: Recommender) -> list[str]:
    """What whoever compares a bundle's two stages, or either with a baseline, should know."""
    rules, notes = recommender.config.rules, []
    told = []
    if rules.cap_column is not None:
        told.append(f"lists of at most {rules.cap_limit} items of one {rules.cap_column}, which may end early")
    if recommender.boosts is not None:
        told.append("scores with boosts")
    if told:
        notes.append(f"{TWO_STAGE} is judged under the bundle's rules ({'; '.join(told)}), all other models without")
    if isinstance(recommender.source, Blend):
        names = ", ".join(source.name for source in recommender.source.sources)
        notes.append(
            f"{RETRIEVER} is the blend in the order in which its lists are interleaved ({names}), not by a score"
        )
    return notes


def report_on(
    recommender: Recommender, dataset: Dataset, config: EvaluationConfig
) -> tuple[EvaluationReport, Prepared, EvaluationPeriod]:
    """A recommender beside baselines fitted on its training period, on its test period.

    Args: dataset: the one it was trained on.
    """
    ready = prepare(dataset, recommender.config)
    snapshot = recommender.snapshot
    period = EvaluationPeriod.build(
        ready.split.train, ready.split.test, at_ms=ready.period_starts[-1], states=snapshot.user_states
    )
    baselines = fit_baselines(
        ready.split.train,
        valid_from_ms=ready.period_starts[-2],
        at_ms=ready.period_starts[-1],
        config=config.baselines,
    )
    models = {
        TWO_STAGE: recommender.top_k,
        RETRIEVER: lists_of(recommender.source),
        **{name: lists_of(baseline.source) for name, baseline in baselines.items()},
    }
    pairs = [(TWO_STAGE, name) for name in models if name != TWO_STAGE]
    pairs += [(RETRIEVER, name) for name in baselines]
    return evaluate(models, period, metrics=config.metrics, pairs=pairs), ready, period
