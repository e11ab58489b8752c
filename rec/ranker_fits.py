"""Fitting rankers on earlier periods: what they learn from, and how long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

import numpy as np

from rec.config import TaskConfig, TrainConfig
from rec.features.as_of import EventIndex
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.models.lambdamart import LambdaMART
from rec.models.mmoe import MMoERanker, MMoETask
from rec.preparation import Prepared
from rec.rankers import RankingModel
from rec.ranking_data import RankingData, build_ranking_data, concatenate, draw_moments
from rec.ray_lightgbm import fit_lambdamart_on_ray
from rec.retrieval.blend import Retriever
from rec.runs import Runs, say


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
        return build_ranking_data(
            snapshot, index, features, self.sources[place], moments, later, ranker, self.tasks, rng
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
        storage_path=str(runs.folder),
        max_failures=config.training.max_failures,
        valid=valid,
        trees=trees,
    )
    judged = "" if grown.valid_ndcg is None else f", validation NDCG@10 {grown.valid_ndcg:.4f}"
    say(f"{name} has {grown.trees} trees{judged}")
    # Renamed when whole, so that a folder of this name is a finished fit.
    unfinished = folder.with_name(f"{name}.unfinished")
    unfinished.mkdir(exist_ok=True)
    grown.model.save(unfinished)
    unfinished.rename(folder)
    return grown.model


def _fit_mmoe(runs: Runs, periods: RankingPeriods) -> tuple[RankingModel, RankingModel]:
    config, seed = runs.config.ranker, runs.config.seed
    training = config.mmoe_training.model_copy(update={"workers": runs.config.training.workers})
    last = periods.last()
    judged = MMoETask(periods.earlier(), last, periods.tasks, config.mmoe, training.batch_size, seed)
    chosen = runs.fit(judged, training, "ranker-chosen")
    whole = MMoETask(periods.all(last), None, periods.tasks, config.mmoe, training.batch_size, seed)
    final = runs.fit(whole, training.model_copy(update={"epochs": chosen.progress.best_epoch}), "ranker")
    return MMoERanker.of(judged, chosen.weights), MMoERanker.of(whole, final.weights)


RankerFit = Callable[[Runs, RankingPeriods], tuple[RankingModel, RankingModel]]
"""Fits on all periods but the last, which decides how long, and then so long on all of them; returns both models."""

RANKER_FITS: Final[dict[str, RankerFit]] = {"lambdamart": _fit_lambdamart, "mmoe": _fit_mmoe}
