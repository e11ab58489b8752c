"""From a data set to a published bundle."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Self

import numpy as np

from rec.bundle import BundleDetails, git_sha
from rec.config import TrainConfig, TrainingConfig
from rec.data.dataset import Dataset, Interactions
from rec.data.splits import Split, split
from rec.errors import ConfigError, DataError
from rec.evaluation import EvaluationPeriod, lists_of
from rec.evaluation import evaluate as judge
from rec.features.as_of import DAY_MS, EventIndex
from rec.features.encoders import Encoders
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.models.mmoe import MMoERanker, MMoETask
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.rankers import FeatureRanker, RankingModel
from rec.ranking_data import RankingData, build_ranking_data, concatenate, draw_moments
from rec.ray_cluster import ensure_ray
from rec.ray_lightgbm import fit_lambdamart_on_ray
from rec.ray_train import train as fit_on_ray
from rec.ray_train import write_run_record
from rec.recommender import Recommender
from rec.registry import Registry
from rec.retrieval.popularity import RecentPopularity
from rec.retrieval.two_tower import TwoTowerSource
from rec.retrieval_data import build_retrieval_data, build_validation
from rec.retriever_task import RetrieverTask
from rec.storage import Home
from rec.training import Fitted, TrainingTask

RUNS: Final = "runs"
RUN_FILE: Final = "run.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set made ready: what counts as liked, divided in time, and encoders of its training period.

    Attributes:
        dataset: as it was read.
        log: all interactions of the training period, liked or not.
        split: the liked ones, divided into training and test.
        encoders: fitted on the training period.
        period_starts: where the ranker's periods begin, then where training ends; UTC milliseconds.
    """

    dataset: Dataset
    log: Interactions
    split: Split
    encoders: Encoders
    period_starts: tuple[int, ...]


def prepare(dataset: Dataset, config: TrainConfig) -> Prepared:
    """Keeps what was liked, divides it, fits the encoders on the training period.

    Raises: DataError: when nothing is left to train on.
    """
    liked = dataset.interactions.positives(
        min_rating=config.data.min_rating, positive_actions=config.data.positive_actions
    )
    divided = split(liked, config.split)
    times = np.sort(divided.train.timestamp)
    end_ms = int(times[-1]) + 1 if divided.cut_ms is None else divided.cut_ms
    starts = [int(times[int(fraction * len(times))]) for fraction in config.ranker.period_fractions]
    if sorted({*starts, end_ms, int(times[0])}) != [int(times[0]), *starts, end_ms]:
        raise DataError(
            f"training rows must spread over time so that the ranker's periods {config.ranker.period_fractions} begin "
            f"one after the other; found {len(times)} rows between {times[0]} and {times[-1]} ms"
        )
    # Where no time divides training from test, what was not liked may lie beyond a user's test rows: leave it out.
    log = divided.train if divided.cut_ms is None else dataset.interactions.before(divided.cut_ms)
    encoders = Encoders.fit(dataset, divided.train, config.encoders)
    return Prepared(dataset, log, divided, encoders, (*starts, end_ms))


def train(dataset: Dataset, config: TrainConfig, location: str, *, resume: str | None = None) -> dict[str, Any]:
    """Trains retriever and ranker, publishes them as a bundle and lets it serve; returns the JSON of `tandem train`.

    Nothing is published unless everything succeeded.

    Args: location: of the home, a folder or an object-store URL. resume: name of a run that was cut off; what it
        finished is not done again.
    Raises: ConfigError: when the run to resume is not there, or was of another config or other data.
    """
    started = time.perf_counter()
    home = Home(location)
    ready = prepare(dataset, config)
    runs = Runs.resume(home, resume, config, dataset) if resume else Runs.begin(home, config, dataset)
    _say(f"run {runs.folder.name} in {runs.folder}")
    if config.training.workers:
        ensure_ray(config.training.workers)

    starts = ready.period_starts
    retrievers = [runs.fit_retriever(ready, period) for period in range(len(starts) - 1)]
    judged = retrievers[-1].progress
    retrievers.append(runs.fit_retriever(ready, len(starts) - 1, epochs=judged.best_epoch))
    snapshots = [snapshot_at(ready, config, at_ms) for at_ms in starts]
    sources = [_source(snapshot, fitted, config) for snapshot, fitted in zip(snapshots, retrievers, strict=True)]
    periods = RankingPeriods(ready, config, snapshots, sources)
    judged_model, model = runs.fit_ranker(periods)
    recommender = _assemble(ready, config, snapshots[-1], sources[-1], model)
    valid = _validate(ready, starts, _assemble(ready, config, snapshots[-2], sources[-2], judged_model))
    registry = Registry(home)
    version = registry.publish(
        recommender.save,
        BundleDetails(
            config=config.model_dump(mode="json"),
            seed=config.seed,
            schema_sha256=dataset.schema.sha256,
            tables={dataset.name: dataset.sha256},
            metrics=valid,
            git_sha=git_sha(),
        ),
    )
    registry.promote(version)
    _say(f"published {version}")
    return {
        "version": version,
        "run_dir": str(runs.folder),
        "bundle": home.show(f"models/{version}"),
        "objective": config.retriever.objective,
        "seed": config.seed,
        "workers": config.training.workers,
        "data": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "n_users": dataset.interactions.n_users,
            "n_items": dataset.interactions.n_items,
            "n_train": int((ready.split.train.timestamp < starts[-2]).sum()),
            "n_valid": int((ready.split.train.timestamp >= starts[-2]).sum()),
            "n_test": len(ready.split.test),
            "dropped": {**dataset.dropped, **ready.split.dropped},
        },
        "epochs": judged.epoch,
        "best_epoch": judged.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
        "valid": valid,
    }


def snapshot_at(ready: Prepared, config: TrainConfig, at_ms: int) -> Snapshot:
    """Everything known at a time from the training rows before it."""
    return Snapshot.build(ready.dataset, ready.encoders, ready.split.train, at_ms, history_length(config))


def history_length(config: TrainConfig) -> int:
    """How many of the latest items a state holds: what the user tower reads."""
    return max(config.retriever.user_tower.history_windows, default=50)


@dataclass(frozen=True, slots=True)
class Runs:
    """The fits of one training run, each in a folder of its own below the run's.

    Attributes:
        folder: holds checkpoints, TensorBoard files and `run.json`: config, seed, versions, and hash of the data.
        config: of the run.
        resumed: whether what is there already is gone on from.
    """

    folder: Path
    config: TrainConfig
    resumed: bool

    @classmethod
    def begin(cls, home: Home, config: TrainConfig, dataset: Dataset) -> Self:
        """A run of its own name, its record written. Runs of a home in an object store are kept beside its cache."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
        folder = ((home.folder or home.cache) / RUNS / name).resolve()
        write_run_record(folder, config=config, seed=config.seed, data={"name": dataset.name, "sha256": dataset.sha256})
        return cls(folder, config, resumed=False)

    @classmethod
    def resume(cls, home: Home, name: str, config: TrainConfig, dataset: Dataset) -> Self:
        """The run of a name, refused unless it is of this config and these data."""
        folder = ((home.folder or home.cache) / RUNS / name).resolve()
        record = folder / RUN_FILE
        if not record.is_file():
            raise ConfigError(f"there is no run {name!r} to resume", file=str(record))
        values = json.loads(record.read_text(encoding="utf-8"))
        if values["data"]["sha256"] != dataset.sha256:
            raise ConfigError("the run was on other data; begin a new one", file=str(record), field="data")
        if TrainConfig.model_validate(values["config"]) != config:
            raise ConfigError("the run had another config; begin a new one", file=str(record), field="config")
        return cls(folder, config, resumed=True)

    def fit_retriever(self, ready: Prepared, period: int, *, epochs: int | None = None) -> Fitted:
        """Fits the two-tower model on what is before the beginning of a period.

        Stops early by what users went on to like in that period; where `epochs` is given, or the period is the test,
        it trains that long without looking.
        """
        config, end_ms = self.config, ready.period_starts[period]
        valid = None
        if epochs is None:
            liked = ready.split.train.between(end_ms, ready.period_starts[period + 1])
            valid = build_validation(snapshot_at(ready, config, end_ms), liked, history_length=history_length(config))
        train = ready.split.train
        data = build_retrieval_data(
            ready.dataset, ready.encoders, train, train, config.retriever.queries, end_ms=end_ms, valid=valid
        )
        task = RetrieverTask(data, config.retriever, config.training.batch_size, config.seed)
        training = config.training if epochs is None else config.training.model_copy(update={"epochs": epochs})
        return self.fit(task, training, f"retriever-{period}")

    def fit(self, task: TrainingTask, training: TrainingConfig, name: str) -> Fitted:
        """Fits a task in a folder of the run."""
        _say(f"fitting {name}")
        return fit_on_ray(task, training, seed=self.config.seed, run_dir=self.folder / name, resume=self.resumed)

    def fit_ranker(self, periods: "RankingPeriods") -> tuple[RankingModel, RankingModel]:
        """Fits the ranker on all periods but the last, which decides how long, and then so long on all of them.

        Returns: both models; the first can be judged on the last period.
        """
        return RANKER_FITS[self.config.ranker.kind](self, periods)


@dataclass(frozen=True, slots=True)
class RankingPeriods:
    """The periods that the ranker learns from, each with what was known at its beginning.

    Attributes: snapshots, sources: at the beginning of each period, and last at the beginning of the test.
    """

    ready: Prepared
    config: TrainConfig
    snapshots: Sequence[Snapshot]
    sources: Sequence[TwoTowerSource]

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
        ready, ranker, snapshot = self.ready, self.config.ranker, self.snapshots[place]
        rng = np.random.default_rng([self.config.seed, place])
        train = ready.split.train
        index = EventIndex(train.before(until_ms))
        moments = draw_moments(
            index,
            train,
            start_ms=snapshot.at_ms,
            end_ms=ready.period_starts[place + 1],
            n=ranker.queries_per_period,
            session_share=ranker.session_share,
            rng=rng,
        )
        neighbors = cosine(train.before(snapshot.at_ms), top_k=ranker.n_neighbors)
        features = RankingFeatures(snapshot, neighbors)
        later = ready.log.between(snapshot.at_ms, until_ms)
        return build_ranking_data(snapshot, index, features, self.sources[place], moments, later, ranker, rng)


def _fit_lambdamart(runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    config = runs.config
    shared = {
        "seed": config.seed,
        "workers": config.training.workers,
        "storage_path": str(runs.folder),
        "max_failures": config.training.max_failures,
    }
    last = periods.last()
    chosen = fit_lambdamart_on_ray(
        periods.earlier(),
        config.ranker.lambdamart,
        valid=last,
        run_name=f"ranker-chosen-{token_hex(4)}",
        **shared,
    )
    _say(f"the ranker has {chosen.trees} trees; growing them on all periods")
    final = fit_lambdamart_on_ray(
        periods.all(last), config.ranker.lambdamart, trees=chosen.trees, run_name=f"ranker-{token_hex(4)}", **shared
    )
    return chosen.model, final.model


def _fit_mmoe(runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    config = runs.config.ranker
    training = config.mmoe_training
    tasks, last = config.tasks, periods.last()
    chosen = runs.fit(
        MMoETask(periods.earlier(), last, tasks, config.mmoe, training.batch_size, runs.config.seed),
        training,
        "ranker-chosen",
    )
    final_task = MMoETask(periods.all(last), None, tasks, config.mmoe, training.batch_size, runs.config.seed)
    final = runs.fit(final_task, training.model_copy(update={"epochs": chosen.progress.best_epoch}), "ranker")
    return MMoERanker.of(final_task, chosen.weights), MMoERanker.of(final_task, final.weights)


RANKER_FITS: Final = {"lambdamart": _fit_lambdamart, "mmoe": _fit_mmoe}


def _assemble(
    ready: Prepared, config: TrainConfig, snapshot: Snapshot, source: TwoTowerSource, model: RankingModel
) -> Recommender:
    """A recommender of what was known at the time of a snapshot."""
    train = ready.split.train.before(snapshot.at_ms)
    neighbors = cosine(train, top_k=config.ranker.n_neighbors)
    popularity = RecentPopularity.fit(train, window_ms=config.popularity_days * DAY_MS, until_ms=snapshot.at_ms)
    ranker = FeatureRanker.of(RankingFeatures(snapshot, neighbors), model, config)
    return Recommender("", config, snapshot, source, popularity, ranker, neighbors)


def _validate(ready: Prepared, starts: Sequence[int], recommender: Recommender) -> dict[str, float]:
    """Both stages on the last period before the test, from what was known at its beginning."""
    train = ready.split.train
    period = EvaluationPeriod.build(
        train.before(starts[-2]),
        train.between(starts[-2], starts[-1]),
        at_ms=starts[-2],
        states=recommender.snapshot.user_states,
    )
    models = {"": recommender.top_k, "retriever_": lists_of(recommender.source)}
    report = judge(models, period, metrics=("ndcg@10", "recall@10", "hit_rate@10"))
    return {
        f"{model}{metric}": estimate.value
        for model, metrics in report.models.items()
        for metric, estimate in metrics.items()
    }


def _source(snapshot: Snapshot, fitted: Fitted, config: TrainConfig) -> TwoTowerSource:
    model = TwoTower(config.retriever, snapshot.encoders.specs)
    put_weights(model, fitted.weights)
    return TwoTowerSource.build(model, snapshot, config.index)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
