"""Fitting rankers on earlier periods: what they learn from, and how long."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final, TypeVar

import numpy as np
from torch import Tensor

from rec.config import RankerKind, TaskConfig, TrainConfig, TrainingConfig
from rec.errors import TrainingError
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.models.crosses import HashedCrosses
from rec.models.expert_ranker import ExpertDesign, ExpertKind, ExpertRanker
from rec.models.lambdamart import LambdaMART, refit_lambdamart
from rec.models.logistic import LogisticDesign, LogisticRanker
from rec.models.row_inputs import cardinalities_of
from rec.models.row_task import RowDesign, RowTask, positions_to_learn
from rec.on_ray.lightgbm import fit_lambdamart_on_ray
from rec.preparation import Prepared
from rec.ranking.data import RankingData, concatenate
from rec.ranking.queries import period_queries
from rec.ranking.rankers import RankingModel
from rec.retrieval.blend import Retriever
from rec.runs import Runs, say
from rec.training import Progress


@dataclass(frozen=True, slots=True)
class RankingPeriods:
    """The periods that the ranker learns from, each with what was known at its beginning.

    Attributes: snapshots, sources: at the beginning of each period, and last at the beginning of the test.
    """

    ready: Prepared
    config: TrainConfig
    snapshots: Sequence[Snapshot]
    sources: Sequence[Retriever]

    @property
    def tasks(self) -> tuple[TaskConfig, ...]:
        """What is learned, with what the tasks do not say taken from the data config."""
        return tuple(task.resolved(self.config.data) for task in self.config.ranker.tasks)

    def earlier(self) -> RankingData:
        """The queries of all periods but the last, answered by what followed before the last began."""
        starts = self.ready.period_starts
        return concatenate([self._queries(place, starts[-2]) for place in range(len(starts) - 2)])

    def last(self) -> RankingData:
        """The queries of the last period."""
        return self._queries(len(self.snapshots) - 2, self.ready.period_starts[-1])

    def all(self, last: RankingData) -> RankingData:
        """The queries of all periods, answered by what followed before the test."""
        starts = self.ready.period_starts
        return concatenate([*(self._queries(place, starts[-1]) for place in range(len(starts) - 2)), last])

    def _queries(self, place: int, until_ms: int) -> RankingData:
        train, snapshot = self.ready.split.train, self.snapshots[place]
        neighbors = cosine(train.before(snapshot.at_ms), top_k=self.config.ranker.n_neighbors)
        return period_queries(
            snapshot,
            RankingFeatures(snapshot, neighbors),
            self.sources[place],
            self.config.ranker,
            self.tasks,
            liked=train.before(until_ms),
            log=self.ready.log,
            end_ms=self.ready.period_starts[place + 1],
            until_ms=until_ms,
            rng=np.random.default_rng([self.config.seed, place]),
        )


def _fit_lambdamart(runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    last = periods.last()
    chosen = _grow(runs, "ranker-chosen", periods.earlier(), valid=last)
    return chosen, _grow(runs, "ranker", periods.all(last), trees=chosen.booster.num_trees())


def _grow(
    runs: Runs, name: str, data: RankingData, *, valid: RankingData | None = None, trees: int | None = None
) -> LambdaMART:
    """Grows trees and keeps them in a folder of the run; a resumed run takes what it has grown already."""
    config, folder = runs.config, runs.folder / name
    if runs.resumed and folder.is_dir():
        return LambdaMART.load(folder, data.layout)
    say(f"fitting {name}")
    grown = fit_lambdamart_on_ray(
        data,
        config.ranker.lambdamart,
        seed=config.seed,
        workers=config.training.workers,
        # Ray Train would go on from what is left of a run of the same name.
        run_name=f"{name}-{token_hex(4)}",
        folder=runs.folder,
        place=runs.place,
        max_failures=config.training.max_failures,
        valid=valid,
        trees=trees,
    )
    judged = "" if grown.valid_ndcg is None else f", validation NDCG@10 {grown.valid_ndcg:.4f}"
    say(f"{name} has {grown.trees} trees{judged}")
    _keep(grown.model, folder)
    return grown.model


def _keep(model: LambdaMART, folder: Path) -> None:
    """Saves trees; renamed when whole, so that a folder of this name is a finished fit."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    model.save(unfinished)
    unfinished.rename(folder)


def refit(runs: Runs, periods: RankingPeriods, model: RankingModel) -> RankingModel:
    """The ranker of a model that training goes on from, on the queries of what is new.

    The leaves of trees are moved towards the new answers; they stay as they are where no query teaches anything.
    Pointwise models are kept as they are.
    """
    if not isinstance(model, LambdaMART):
        return model
    config, folder = runs.config, runs.folder / "ranker-refitted"
    last = periods.last()
    if runs.resumed and folder.is_dir():
        return LambdaMART.load(folder, last.layout)
    try:
        last.require_something_to_learn()
    except TrainingError as error:
        say(f"the ranker stays as it is: {error}")
        return model
    say("refitting the ranker")
    refitted = refit_lambdamart(model, last, decay=config.incremental.refit_decay)
    _keep(refitted, folder)
    return refitted


def _fit_logistic(runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    ranker = runs.config.ranker
    config = ranker.logistic

    def design(train: RankingData, valid: RankingData | None) -> LogisticDesign:
        crosses = HashedCrosses.fit(train.layout, train.matrix, config)
        return LogisticDesign(crosses, periods.tasks, config, _n_positions(periods, train))

    return _fit_rows(runs, periods, design, LogisticRanker.of, ranker.logistic_training)


def _fit_experts(kind: ExpertKind, runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    ranker = runs.config.ranker
    config, training = {
        "mmoe": (ranker.mmoe, ranker.mmoe_training),
        "ple": (ranker.ple, ranker.ple_training),
    }[kind]

    def design(train: RankingData, valid: RankingData | None) -> ExpertDesign:
        cardinalities = cardinalities_of(train, *([] if valid is None else [valid]))
        n_positions = _n_positions(periods, train)
        return ExpertDesign(kind, train.layout, cardinalities, periods.tasks, config, n_positions)

    return _fit_rows(runs, periods, design, ExpertRanker.of, training)


def _n_positions(periods: RankingPeriods, train: RankingData) -> int:
    return positions_to_learn(train) if periods.config.ranker.position_bias else 0


DesignT = TypeVar("DesignT", bound=RowDesign)


def _fit_rows(
    runs: Runs,
    periods: RankingPeriods,
    design: Callable[[RankingData, RankingData | None], DesignT],
    model: Callable[[DesignT, Mapping[str, Tensor]], RankingModel],
    training: TrainingConfig,
) -> tuple[RankingModel, RankingModel]:
    """Fits a pointwise model. Args: design: of training and validation rows. model: of a design and fitted weights."""
    seed = runs.config.seed
    machine = {name: getattr(runs.config.training, name) for name in ("workers", "use_gpu")}
    training = training.model_copy(update=machine)
    last, earlier = periods.last(), periods.earlier()
    earlier.require_something_to_learn()
    judged_design = design(earlier, last)
    judged = RowTask(judged_design, earlier, last, training.batch_size, seed)
    chosen = runs.fit(judged, training, "ranker-chosen")
    if (text := untrained(judged, chosen.progress)) is not None:
        runs.doubt(f"ranker-chosen: {text}")
    everything = periods.all(last)
    whole_design = design(everything, None)
    whole = RowTask(whole_design, everything, None, training.batch_size, seed)
    final = runs.fit(whole, training.model_copy(update={"epochs": chosen.progress.best_epoch}), "ranker")
    return model(judged_design, chosen.weights), model(whole_design, final.weights)


def untrained(task: RowTask, progress: Progress) -> str | None:
    """What makes a pointwise model doubtful: that it says less of a row's success than how frequent success is."""
    found, constant = progress.best["log_likelihood"], task.constant_likelihood
    if found >= constant:
        return None
    steps = progress.best_epoch * len(task.plan(0))
    return (
        f"after epoch {progress.best_epoch} ({steps} steps), which is kept, the log loss of the validation rows is "
        f"{-found:.4f}, and {-constant:.4f} of always saying how frequent successes were in training: where the steps "
        "are few, give a smaller batch_size, more epochs or more data; its order may be right all the same"
    )


RankerFit = Callable[[Runs, RankingPeriods], tuple[RankingModel, RankingModel]]
"""Fits on all periods but the last, which decides how long, and then so long on all of them; returns both models."""

RANKER_FITS: Final[dict[RankerKind, RankerFit]] = {
    "lambdamart": _fit_lambdamart,
    "logistic": _fit_logistic,
    "mmoe": partial(_fit_experts, "mmoe"),
    "ple": partial(_fit_experts, "ple"),
}
