"""All rankers on the same candidates and features: MovieLens-1M, and a world of short videos whose truth is known.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/rankers.py [--seeds 3]
        [--worlds movielens instatok instatok_two_tasks]
        [--keep FOLDER]: retrievers are kept in that folder, and those found there are not fitted again.
Data:   $TANDEM_DATA/ml-1m in its original files; InstaTok is generated.
Protocol: of retrieval_movielens.py: the retriever is fitted up to the beginning of each of two periods and up to the
        test; rankers learn from its candidates in the two periods, and how long, on the second after the first. For
        each seed all rankers get the same retrievers, queries, candidates and features. How much the retriever's score
        counts beside a ranker's (`retrieval_weight`) is chosen for each ranker on the second period, too. The test
        period is looked at once, by what was chosen then.
InstaTok: rankers learn from what was watched and what was not. `watch@10` is the true probability, known to the world
        alone, that a user watches one of the ten.
        `instatok_two_tasks` is the same, with the same retrievers, for what learns several tasks: what was liked is a
        second one, which the score leaves out. In this world people like a share of what they do not watch, so that
        the tasks pull apart; what the second costs the first is the difference from the same seed of `instatok`.
Calibration: of the probabilities that rankers predict for the answers of the test period's queries; lambdamart
        predicts none.
Expect: some minutes a seed.
Writes: benchmarks/results/rankers_WORLD.json and .png
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, data_folder, paired_row, quality_result, summary_row, write_result

from rec.calibration import Calibration, calibration
from rec.config import DataConfig, RankerKind, TaskConfig, TrainConfig
from rec.data.dataset import Dataset
from rec.data.source import read_dataset
from rec.evaluation import EvaluationPeriod
from rec.features.ranking import RankingFeatures
from rec.i2i import cosine
from rec.metrics import format_difference, format_estimate, per_user
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.on_ray.train import write_run_record
from rec.preparation import Prepared, prepare, snapshot_at
from rec.ranking.data import RankingData
from rec.ranking.fits import RANKER_FITS, RankingPeriods
from rec.ranking.queries import period_queries
from rec.ranking.rankers import ProbabilityModel, RankingModel
from rec.retrieval.two_tower import TwoTowerSource
from rec.retriever.fits import fit_retriever
from rec.runs import Runs
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

KINDS: Final = get_args(RankerKind)
RETRIEVER: Final = "retriever"
# Of the retriever's logit; the first of equals is taken.
RETRIEVAL_WEIGHTS: Final = (0.0, 0.25, 0.5, 1.0)
METRICS: Final = ("ndcg@10", "recall@10", "hit_rate@10")
MAIN: Final = METRICS[0]
WATCHED: Final = "watch@10"

Lists = NDArray[np.int32]
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class World:
    """Data, how models are trained on them, and what only the world knows.

    Attributes: truth: lists of users to the mean true value of each list; None where nobody knows. kinds: of rankers.
    """

    name: str
    dataset: Dataset
    config: TrainConfig
    truth: Callable[[NDArray[np.int32], Lists], NDArray[np.float64]] | None = None
    kinds: tuple[RankerKind, ...] = KINDS


def movielens() -> World:
    """MovieLens-1M by the defaults."""
    data = DataConfig(name="movielens-1m", path=str(data_folder() / "ml-1m"))
    return World("movielens", read_dataset(data), TrainConfig(data=data))


def instatok() -> World:
    """Short videos, of which watching alone says what people want; what they skip teaches, too."""
    world = InstaTok(InstaTokConfig(n_users=300, n_videos=600, sessions_per_user=30.0))
    ranker = {
        "n_candidates": 200,
        "learn_from": "answers",
        "min_positives": 1,
        "queries_per_period": 2000,
        "tasks": [{"name": "watched", "actions": ["watched"]}],
        **{f"{kind}_training": {"epochs": 10, "batch_size": 256, "learning_rate": 1e-3} for kind in ("mmoe", "ple")},
        "logistic_training": {"epochs": 10, "batch_size": 256, "learning_rate": 1e-2, "weight_decay": 0.0},
    }
    config = TrainConfig.model_validate(
        {
            "data": {"name": "instatok", "positive_actions": ["watched"]},
            "training": {"epochs": 3, "batch_size": 256},
            "ranker": ranker,
        }
    )

    def truth(users: NDArray[np.int32], lists: Lists) -> NDArray[np.float64]:
        return world.watch_p[users[:, None], world.category[lists]].mean(axis=1)

    return World("instatok", world.dataset(), config, truth)


def instatok_two_tasks() -> World:
    """The same world; rankers learn what was liked beside what was watched."""
    world = instatok()
    tasks = (*world.config.ranker.tasks, TaskConfig(name="liked", actions=("liked",)))
    kinds: tuple[RankerKind, ...] = ("logistic", "mmoe", "ple")
    of_kinds = {
        kind: getattr(world.config.ranker, kind).model_copy(update={"formula": {"liked": 0.0}}) for kind in kinds
    }
    ranker = world.config.ranker.model_copy(update={"kind": kinds[0], "tasks": tasks, **of_kinds})
    config = world.config.model_copy(update={"ranker": ranker})
    return replace(world, name="instatok_two_tasks", config=config, kinds=kinds)


WORLDS: Final = {"movielens": movielens, "instatok": instatok, "instatok_two_tasks": instatok_two_tasks}


@dataclass(frozen=True)
class SharedPeriods(RankingPeriods):
    """Periods whose queries are made once, for all rankers."""

    @cached_property
    def _earlier(self) -> RankingData:
        return RankingPeriods.earlier(self)

    @cached_property
    def _last(self) -> RankingData:
        return RankingPeriods.last(self)

    @cached_property
    def _all(self) -> RankingData:
        return RankingPeriods.all(self, self._last)

    def earlier(self) -> RankingData:
        """As of the first ranker that asked."""
        return self._earlier

    def last(self) -> RankingData:
        """As of the first ranker that asked."""
        return self._last

    def all(self, last: RankingData) -> RankingData:
        """As of the first ranker that asked."""
        return self._all


@dataclass(frozen=True)
class Question:
    """Candidates of the users of a period and their features, the same for all rankers.

    Attributes: items, scores: (B, M). matrix: (B * M, F).
    """

    period: EvaluationPeriod
    items: Lists
    scores: NDArray[np.float64]
    matrix: NDArray[np.float32]

    def lists(self, model: RankingModel | None, scale: float) -> Lists:
        """The ten best by the model's score and `scale` times the retriever's, which alone counts without a model."""
        there = self.items >= 0
        scores = np.where(there, self.scores, 0.0)
        if model is not None:
            scores = model.predict(self.matrix).reshape(self.items.shape) + scale * scores
        scores = np.where(there, scores, -np.inf)
        order = np.lexsort((self.items, -scores), axis=1)[:, :10]
        return np.take_along_axis(self.items, order, axis=1)

    def values(self, lists: Lists, truth: Callable[..., NDArray[np.float64]] | None) -> Values:
        """Metrics of each user, (B,) by name."""
        values = per_user(lists, self.period.indptr, self.period.relevant, METRICS)
        return values | ({} if truth is None else {WATCHED: truth(self.period.states.user, lists)})


def main() -> None:
    """Fits every ranker in every world for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    for name in options.worlds:
        with tempfile.TemporaryDirectory() as scratch:
            run(WORLDS[name](), options.seeds, options.keep or Path(scratch), Path(scratch))


def run(world: World, n_seeds: int, keep: Path, scratch: Path) -> None:
    """One table. Args: keep: where retrievers are. scratch: where rankers are while they are fitted."""
    rows: list[dict[str, Any]] = []
    values: dict[str, list[Values]] = {}
    curves: dict[str, Calibration] = {}
    for seed in range(n_seeds):
        config = world.config.model_copy(
            update={"seed": seed, "training": world.config.training.model_copy(update={"workers": 0})}
        )
        ready = prepare(world.dataset, config)
        periods = _periods(world, ready, config, keep / world.name / f"seed-{seed}")
        valid, test = (_question(periods, place) for place in (len(periods.sources) - 2, len(periods.sources) - 1))
        queries = _held_out_queries(periods)
        found: dict[str, tuple[Values, dict[str, Any]]] = {
            RETRIEVER: (test.values(test.lists(None, 1.0), world.truth), {})
        }
        for kind in world.kinds:
            ranker = config.ranker.model_copy(update={"kind": kind})
            runs = Runs(
                scratch / world.name / f"seed-{seed}" / kind, config.model_copy(update={"ranker": ranker}), False
            )
            runs.folder.mkdir(parents=True)
            judged, model = RANKER_FITS[kind](runs, periods)
            scales = [weight / config.retriever.softmax_temperature for weight in RETRIEVAL_WEIGHTS]
            tried = [float(valid.values(valid.lists(judged, scale), None)[MAIN].mean()) for scale in scales]
            best = int(np.argmax(tried))
            about: dict[str, Any] = {"retrieval_weight": RETRIEVAL_WEIGHTS[best], "valid": tried}
            if isinstance(model, ProbabilityModel):
                curve = calibration(model.probabilities(queries.matrix), queries.labels[:, 0] > 0)
                about["calibration"] = _without_bins(curve)
                # The first seed's is drawn: seeds answer nearly the same questions, so that they do not add up.
                curves.setdefault(kind, curve)
            found[kind] = test.values(test.lists(model, scales[best]), world.truth), about
        for kind, (users, about) in found.items():
            values.setdefault(kind, []).append(users)
            metrics = {metric: float(of_users.mean()) for metric, of_users in users.items()}
            rows.append({"model": kind, "seed": seed, "log": None, "metrics": metrics, **about})
            told = "".join(f"  {metric} {value:.4f}" for metric, value in metrics.items())
            print(f"{world.name}  seed {seed}  {kind:<11}{told}  {about}", flush=True)
        # After every seed, so that what is finished is not lost.
        _write(world, periods, test, queries, rows, values, curves)


def _periods(world: World, ready: Prepared, config: TrainConfig, folder: Path) -> SharedPeriods:
    """Retrievers at the beginning of each period and of the test; those kept in the folder are taken as they are."""
    if not folder.is_dir():
        data = {"name": world.dataset.name, "sha256": world.dataset.sha256}
        write_run_record(folder, config=config, seed=config.seed, data=data)
    runs, starts = Runs(folder, config, resumed=True), ready.period_starts
    fits = [fit_retriever(runs, ready, period) for period in range(len(starts) - 1)]
    fits.append(fit_retriever(runs, ready, len(starts) - 1, epochs=fits[-1].progress.best_epoch))
    snapshots, sources = [snapshot_at(ready, config, at_ms) for at_ms in starts], []
    for snapshot, fitted in zip(snapshots, fits, strict=True):
        model = TwoTower(config.retriever, snapshot.encoders.specs)
        put_weights(model, fitted.weights)
        sources.append(TwoTowerSource.build(model, snapshot, config.index))
    return SharedPeriods(ready, config, snapshots, sources)


def _features(periods: RankingPeriods, place: int) -> RankingFeatures:
    snapshot = periods.snapshots[place]
    train = periods.ready.split.train.before(snapshot.at_ms)
    return RankingFeatures(snapshot, cosine(train, top_k=periods.config.ranker.n_neighbors))


def _question(periods: RankingPeriods, place: int) -> Question:
    ready, snapshot, source = periods.ready, periods.snapshots[place], periods.sources[place]
    train, at_ms = ready.split.train, snapshot.at_ms
    later = (
        ready.split.test if at_ms == ready.period_starts[-1] else train.between(at_ms, ready.period_starts[place + 1])
    )
    period = EvaluationPeriod.build(train.before(at_ms), later, at_ms=at_ms, states=snapshot.user_states)
    found = source.candidates(period.states, periods.config.ranker.n_candidates)
    matrix = _features(periods, place).matrix(period.states, found.items, found.scores)
    return Question(period, found.items, found.scores, matrix)


def _held_out_queries(periods: RankingPeriods) -> RankingData:
    """Queries of the test period, as the rankers' own were drawn."""
    config, interactions = periods.config, periods.ready.dataset.interactions
    end_ms = int(interactions.timestamp.max()) + 1
    return period_queries(
        periods.snapshots[-1],
        _features(periods, -1),
        periods.sources[-1],
        config.ranker,
        periods.tasks,
        liked=interactions.positives(min_rating=config.data.min_rating, positive_actions=config.data.positive_actions),
        log=interactions,
        end_ms=end_ms,
        until_ms=end_ms,
        rng=np.random.default_rng([config.seed, len(periods.snapshots)]),
    )


def _write(
    world: World,
    periods: RankingPeriods,
    test: Question,
    queries: RankingData,
    rows: list[dict[str, Any]],
    values: dict[str, list[Values]],
    curves: dict[str, Calibration],
) -> None:
    summary = [summary_row(model, metric, rows, users=found) for model, found in values.items() for metric in found[0]]
    paired = []
    tested = [*METRICS, *([] if world.truth is None else [WATCHED])]
    pairs = [(a, b) for place, b in enumerate(values) for a in list(values)[place + 1 :]]
    for metric in tested:
        for a, b in pairs:
            paired.append(paired_row(a, b, metric, values[a], values[b]))
            print(f"{world.name}  {metric}  {a} - {b}: {format_difference(paired[-1])}")
    name = f"rankers_{world.name}"
    _draw(curves, FOLDER / f"{name}.png", f"Rankers on {world.name}: probabilities in the test period")
    protocol = {
        "cut_ms": periods.ready.split.cut_ms,
        "n_users": len(test.period),
        "n_candidates": test.items.shape[1],
        "n_features": test.matrix.shape[1],
        "n_training_queries": len(periods.all(periods.last()).groups),
        "n_training_rows": len(periods.all(periods.last()).matrix),
        "n_test_answers": len(queries.labels),
        "retrieval_weights": RETRIEVAL_WEIGHTS,
        "ranker": periods.config.ranker.model_dump(mode="json"),
        "paired": paired,
        "calibration": {kind: curve.to_json() for kind, curve in curves.items()},
    }
    write_result(quality_result(name, protocol=protocol, rows=rows, summary=summary))
    for row in summary:
        told = format_estimate({"value": row["mean"], "std_error": row["std_error_users"]})
        print(f"{world.name}  {row['model']:<11} {row['metric']:<12} {told} (over users)")


def _draw(curves: dict[str, Calibration], file: Path, title: str) -> None:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    most = max(max(curve.high.max(), curve.predicted.max()) for curve in curves.values())
    axes.plot([0, most], [0, most], color="grey", linestyle="dotted", label="comes true")
    for kind, curve in curves.items():
        around = [curve.observed - curve.low, curve.high - curve.observed]
        told = f"{kind}: error {curve.expected_error:.3f} ({curve.by_chance:.3f} by chance)"
        axes.errorbar(curve.predicted, curve.observed, yerr=around, marker="o", markersize=3, capsize=2, label=told)
    axes.set(title=title, xlabel="predicted", ylabel="observed, with 95% interval")
    axes.legend()
    figure.savefig(file, dpi=120)


def _without_bins(found: Calibration) -> dict[str, Any]:
    return {name: value for name, value in found.to_json().items() if name != "bins"}


if __name__ == "__main__":
    main()
