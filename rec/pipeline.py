"""From a data set to a published bundle."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rec.bundle import BundleDetails, git_sha
from rec.candidate_tables import read_candidates
from rec.config import TrainConfig
from rec.data.dataset import Dataset
from rec.evaluation import EvaluationPeriod, evaluate, lists_of
from rec.features.as_of import DAY_MS
from rec.features.growth import growth
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.i2i.swing import add_up_here
from rec.models.growth import grown_weights
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.neighbor_sums import NeighborSums
from rec.on_ray.cluster import ensure_ray
from rec.on_ray.i2i import add_up_in_tasks
from rec.parent import Parent, came_back, not_there, with_version
from rec.preparation import Prepared, prepare, prepare_new, snapshot_at
from rec.ranking.fits import RANKER_FITS, RankingPeriods, refit
from rec.ranking.rankers import FeatureRanker, RankingModel
from rec.recommender import Recommender
from rec.registry import Registry
from rec.retrieval.blend import Retriever
from rec.retrieval.popularity import RecentPopularity
from rec.retrieval.protocol import CandidateSource
from rec.retrieval.two_tower import TwoTowerSource
from rec.retriever.fits import fit_new, fit_retriever, fit_through_ranker, thin_overlap
from rec.rules import boosts_of, cap_of
from rec.runs import Runs, require_publishable, say
from rec.source_fits import as_retriever, fit_sources
from rec.storage import Home
from rec.training import Fitted, Progress


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of training.

    Attributes:
        recommender: of all the training period.
        judged: the same as of the beginning of the last period, which judges it.
        progress: of the retriever's fit that says how long it trained.
    """

    recommender: Recommender
    judged: Recommender
    progress: Progress


def train(
    dataset: Dataset,
    config: TrainConfig,
    location: str,
    *,
    resume: str | None = None,
    name: str | None = None,
    promote: bool = True,
) -> dict[str, Any]:
    """Trains retriever and ranker, publishes them as a bundle and lets it serve; returns the JSON of `tandem train`.

    Where the config names a parent, training goes on from that model, on what is new. Nothing is published unless
    everything succeeded.

    Args: location: of the home, a folder or an object-store URL. resume: name of a run that was cut off; what it
        finished is not done again. name: of a new run, by default one of its own. promote: False leaves what serves.
    Raises: ConfigError: when the run to resume is not there, or was of another config or other data; or the parent is
        of other shapes or features. BundleError: when a version that is named is not there. NothingNewError: when
        nothing was liked since the parent's training ended.
    """
    started = time.perf_counter()
    require_publishable(config)
    home = Home(location)
    config = with_version(config, home, resume)
    registry = Registry(home)
    parent = None if config.incremental.parent is None else Parent.open(home, config, dataset)
    catalogue = parent.recommender if parent is not None else _catalogue_of(registry, config.incremental.catalogue)
    known = None if catalogue is None else catalogue.snapshot
    if parent is None:
        ready = prepare(dataset, config, catalogue=known)
    else:
        ready = prepare_new(dataset, config, parent.recommender.snapshot)
    starts = ready.period_starts
    if max(config.training.workers, config.sources.tasks - 1):
        ensure_ray(max(config.training.workers, config.sources.tasks))
    kept = None if parent is None else NeighborSums.load(home, registry.trained(parent.recommender.version))
    snapshots, counted, sums = known_at_starts(ready, config, kept)
    runs = Runs.resume(home, resume, config, dataset) if resume is not None else Runs.begin(home, config, dataset, name)
    say(f"run {runs.folder.name} in {runs.folder}")

    n_withdrawn = int(snapshots[-1].withdrawn.sum())
    if catalogue is not None:
        for text in not_there(catalogue, dataset):
            runs.doubt(text)
        if n_withdrawn:
            say(f"{n_withdrawn} items stay withdrawn, as in {catalogue.version}")
    if parent is None:
        trained = train_anew(runs, ready, snapshots, counted)
    else:
        trained = _train_on(runs, ready, snapshots, counted, parent.recommender)
    # An item may have been withdrawn while this was training, too.
    for text in came_back(home, snapshots[-1]):
        runs.doubt(text)
    valid = _validate(ready, trained.judged)
    from_ms = int(ready.split.train.timestamp.min()) if parent is None else parent.end_ms
    tables = {dataset.name: dataset.sha256, **{name: str(version) for name, version in dataset.tables.items()}}
    if config.sources.batch is not None and (job := read_candidates(config.sources.batch).job) is not None:
        tables["candidates"] = job.key
    version = registry.publish(
        trained.recommender.save,
        BundleDetails(
            config=config.model_dump(mode="json"),
            seed=config.seed,
            schema_sha256=dataset.schema.sha256,
            tables=tables,
            metrics=valid,
            git_sha=git_sha(),
            parent=config.incremental.parent,
            trained_from_ms=from_ms,
            trained_until_ms=starts[-1],
            warnings=runs.doubts,
        ),
    )
    if sums.by_name:
        needed = [name for name in (config.incremental.parent, registry.current()) if name is not None]
        sums.save(home, version, keep=[registry.trained(name) for name in needed])
    if promote:
        registry.promote(version)
    say(f"published {version}")
    answer = {
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
        "epochs": trained.progress.epoch,
        "best_epoch": trained.progress.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
        "valid": valid,
        "warnings": runs.doubts,
    }
    if sums.by_name:
        answer["counted"] = {name: {"n": len(each), "added": each.n_added} for name, each in sums.by_name.items()}
    if parent is not None:
        ids = growth(parent.recommender.snapshot.encoders, ready.encoders)
        changes = {name: asdict(change) for name, change in ids.items()}
        answer["parent"] = {
            "version": parent.recommender.version,
            "from_ms": from_ms,
            "until_ms": starts[-1],
            "withdrawn": n_withdrawn,
            **changes,
        }
    elif catalogue is not None:
        answer["catalogue"] = {"version": catalogue.version, "withdrawn": n_withdrawn}
    return answer


def _catalogue_of(registry: Registry, version: str | None) -> Recommender | None:
    return None if version is None else Recommender.from_bundle(registry.open(version))


def known_at_starts(
    ready: Prepared, config: TrainConfig, sums: NeighborSums | None = None
) -> tuple[list[Snapshot], list[dict[str, CandidateSource]], NeighborSums]:
    """What was known at the beginning of each period, the sources that are counted from it, and the sums of the last.

    Each period adds to the sums of the one before it; the first to those given, which an earlier training has kept.

    Raises: ConfigError: for a cap or boost by what this catalogue does not have.
    """
    snapshots = [snapshot_at(ready, config, at_ms) for at_ms in ready.period_starts]
    cap_of(config.rules, snapshots[-1].item_table)
    boosts_of(config.rules, snapshots[-1])
    sums = sums or NeighborSums()
    add_up = add_up_in_tasks(config.sources.tasks) if config.sources.tasks > 1 else add_up_here
    sources = []
    for snapshot in snapshots:
        liked, log = ready.split.train, ready.log
        sums = sums.go_on(liked.before(snapshot.at_ms), log.before(snapshot.at_ms), config, add_up=add_up)
        last = snapshot is snapshots[-1]
        sources.append(fit_sources(liked, snapshot, config, log=log, answering=last, sums=sums))
        for name, counted in sums.by_name.items():
            say(f"{name}: {counted.n_added:,} of {len(counted):,} interactions added")
    return snapshots, sources, sums


def train_anew(
    runs: Runs, ready: Prepared, snapshots: Sequence[Snapshot], counted: Sequence[dict[str, CandidateSource]]
) -> Trained:
    """Trains both stages on what was known at the beginning of each period."""
    config, starts = runs.config, ready.period_starts
    retrievers = fit_retrievers(runs, ready)
    thin = {f"retriever-{period}": thin_overlap(fitted.progress) for period, fitted in enumerate(retrievers[:-1])}
    for name, text in thin.items():
        if text is not None:
            runs.doubt(f"{name}: {text}")
    sources = [
        as_retriever(two_tower_source(snapshot, fitted, config), others, config)
        for snapshot, fitted, others in zip(snapshots, retrievers, counted, strict=True)
    ]
    periods = RankingPeriods(ready, config, snapshots, sources)
    judged_model, model = RANKER_FITS[config.ranker.kind](runs, periods)
    if config.retriever.objective == "two_stage_ips":
        first = list(zip(snapshots, sources, strict=True))
        for place, ranker in ((len(starts) - 2, judged_model), (len(starts) - 1, model)):
            earlier = [assemble(ready, config, snapshot, source, ranker) for snapshot, source in first[:place]]
            again = fit_through_ranker(runs, ready, place, retrievers[place], earlier)
            sources[place] = as_retriever(two_tower_source(snapshots[place], again, config), counted[place], config)
    return Trained(
        assemble(ready, config, snapshots[-1], sources[-1], model),
        assemble(ready, config, snapshots[-2], sources[-2], judged_model),
        retrievers[-2].progress,
    )


def _train_on(
    runs: Runs,
    ready: Prepared,
    snapshots: Sequence[Snapshot],
    counted: Sequence[dict[str, CandidateSource]],
    parent: Recommender,
) -> Trained:
    """Trains the parent on; what is new judges the parent, before anything is learned from it."""
    config = runs.config
    weights = grown_weights(
        parent.two_tower.model, parent.snapshot.encoders, config.retriever, ready.encoders, seed=config.seed
    )
    source = as_retriever(two_tower_source(snapshots[0], Fitted(weights, Progress()), config), counted[0], config)
    before = assemble(ready, config, snapshots[0], source, parent.ranker.model)
    fitted = fit_new(runs, ready, weights, before)
    after = as_retriever(two_tower_source(snapshots[1], fitted, config), counted[1], config)
    model = refit(runs, RankingPeriods(ready, config, snapshots, [source, after]), parent.ranker.model)
    return Trained(assemble(ready, config, snapshots[1], after, model), before, fitted.progress)


def fit_retrievers(runs: Runs, ready: Prepared) -> list[Fitted]:
    """The two-tower model as of the beginning of each period, and last of the test.

    The last one trains as long as was best for the one before, which the last period judges.
    """
    last = len(ready.period_starts) - 1
    judged = [fit_retriever(runs, ready, period) for period in range(last)]
    return [*judged, fit_retriever(runs, ready, last, epochs=judged[-1].progress.best_epoch)]


def assemble(
    ready: Prepared, config: TrainConfig, snapshot: Snapshot, source: Retriever, model: RankingModel
) -> Recommender:
    """A recommender of what was known at the time of a snapshot."""
    train = ready.split.train.before(snapshot.at_ms)
    neighbors = cosine(train, top_k=config.ranker.n_neighbors)
    popularity = RecentPopularity.fit(train, window_ms=config.popularity_days * DAY_MS, until_ms=snapshot.at_ms)
    ranker = FeatureRanker.of(RankingFeatures(snapshot, neighbors), model, config)
    return Recommender("", config, snapshot, source, popularity, ranker, neighbors)


def validation_period(ready: Prepared, snapshot: Snapshot) -> EvaluationPeriod:
    """The last period before the test.

    Args: snapshot: as of its beginning.
    """
    train, (start_ms, end_ms) = ready.split.train, ready.period_starts[-2:]
    return EvaluationPeriod.build(
        train.before(start_ms), train.between(start_ms, end_ms), at_ms=start_ms, states=snapshot.user_states
    )


def _validate(ready: Prepared, recommender: Recommender) -> dict[str, float]:
    """Both stages on the last period before the test, from what was known at its beginning."""
    models = {"": recommender.top_k, "retriever_": lists_of(recommender.source)}
    period = validation_period(ready, recommender.snapshot)
    report = evaluate(models, period, metrics=("ndcg@10", "recall@10", "hit_rate@10"))
    return {
        f"{model}{metric}": estimate.value
        for model, metrics in report.models.items()
        for metric, estimate in metrics.items()
    }


def two_tower_source(snapshot: Snapshot, fitted: Fitted, config: TrainConfig) -> TwoTowerSource:
    """The trained model as a source, over the items of a snapshot."""
    model = TwoTower(config.retriever, snapshot.encoders.specs)
    put_weights(model, fitted.weights)
    return TwoTowerSource.build(model, snapshot, config.index)
