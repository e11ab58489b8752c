"""Retrieve-then-rank on MovieLens-1M with a blend of candidate sources, beside each source alone.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/blending_movielens.py [--seeds 5]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: as in retrieval_movielens.py. The two-tower models of a seed are trained once and score all candidates; every
        system has 300 candidates a user and a ranker of its own, trained on candidates of its own sources as they were
        at the beginning of each period. Which blend, of those in BLENDS, is chosen by the mean NDCG@10 of the seeds on
        the last period before the test; of the blends only the chosen one is asked for lists of the test period.
Expect: the blend above each single source in NDCG@10, in intervals paired by user of the mean over seeds.
Writes: benchmarks/results/blending_movielens.json
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, paired_row, quality_result, summary_row, write_result

from rec.config import DataConfig, SourcesConfig, TrainConfig
from rec.data.dataset import Dataset
from rec.data.source import read_dataset
from rec.evaluation import EvaluationPeriod, evaluate
from rec.features.snapshot import Snapshot
from rec.metrics import format_difference, format_estimate
from rec.on_ray.cluster import ensure_ray
from rec.pipeline import assemble, fit_retrievers, two_tower_source, validation_period
from rec.preparation import Prepared, prepare, snapshot_at
from rec.ranking.fits import RANKER_FITS, RankingPeriods
from rec.recommender import Recommender
from rec.retrieval.protocol import CandidateSource
from rec.retrieval.two_tower import TwoTowerSource
from rec.runs import Runs
from rec.source_fits import SOURCE_FITS, as_retriever
from rec.source_report import SourceReport
from rec.storage import Home

SINGLE: Final[dict[str, SourcesConfig]] = {
    "two_tower": SourcesConfig(),
    "ease": SourcesConfig(first="ease"),
    "item_knn": SourcesConfig(first="item_knn"),
    "swing": SourcesConfig(first="swing"),
    "cosine": SourcesConfig(first="cosine"),
    "popularity": SourcesConfig(first="popularity"),
    "recent_popularity": SourcesConfig(first="recent_popularity"),
}
BLENDS: Final[dict[str, SourcesConfig]] = {
    "half_ease": SourcesConfig(quotas={"ease": 150}),
    "three": SourcesConfig(quotas={"ease": 80, "recent_popularity": 80}),
    "four": SourcesConfig(quotas={"ease": 60, "swing": 40, "recent_popularity": 60}),
    "all": SourcesConfig(
        quotas={"ease": 50, "swing": 30, "cosine": 20, "recent_popularity": 40, "popularity": 20, "fresh": 20}
    ),
}
METRICS: Final = ("ndcg@10", "hit_rate@10", "recall@10")
CHOSEN: Final = "blend"
GOAL: Final = 0.30

UserValues = dict[str, NDArray[np.float64]]


Counted = Sequence[Mapping[str, CandidateSource]]
"""The sources without a seed by name, as of the beginning of each period."""


@dataclass(frozen=True)
class Seed:
    """What all systems of one seed share: two-tower models as of the beginning of each period."""

    runs: Runs
    ready: Prepared
    two_towers: Sequence[TwoTowerSource]

    @classmethod
    def train(cls, dataset: Dataset, config: TrainConfig, home: str) -> "Seed":
        """Trains them."""
        ready = prepare(dataset, config)
        runs = Runs.begin(Home(home), config, dataset)
        fitted = fit_retrievers(runs, ready)
        snapshots = [snapshot_at(ready, config, at_ms) for at_ms in ready.period_starts]
        pairs = zip(snapshots, fitted, strict=True)
        return cls(runs, ready, [two_tower_source(snapshot, weights, config) for snapshot, weights in pairs])

    def counted(self, names: Iterable[str]) -> Counted:
        """The other sources; they do not depend on the seed."""
        liked, log, config = self.ready.split.train, self.ready.log, self.runs.config

        def fitted(snapshot: Snapshot) -> dict[str, CandidateSource]:
            known, everything = liked.before(snapshot.at_ms), log.before(snapshot.at_ms)
            return {name: SOURCE_FITS[name](known, everything, snapshot, config) for name in names}

        return [fitted(two_tower.snapshot) for two_tower in self.two_towers]

    def systems(self, name: str, sources: SourcesConfig, counted: Counted) -> tuple[Recommender, Recommender]:
        """Both stages as of the beginning of the last period, and of the test."""
        config = self.runs.config.model_copy(update={"sources": sources})
        snapshots = [two_tower.snapshot for two_tower in self.two_towers]
        retrievers = [
            as_retriever(two_tower, {one: others[one] for one in sources.names if one in others}, config)
            for two_tower, others in zip(self.two_towers, counted, strict=True)
        ]
        folder = self.runs.folder / name
        folder.mkdir()
        periods = RankingPeriods(self.ready, config, snapshots, retrievers)
        chosen, final = RANKER_FITS[config.ranker.kind](Runs(folder, config, resumed=False), periods)
        return (
            assemble(self.ready, config, snapshots[-2], retrievers[-2], chosen),
            assemble(self.ready, config, snapshots[-1], retrievers[-1], final),
        )


def judged(recommender: Recommender, period: EvaluationPeriod, name: str) -> UserValues:
    """Metrics of each user of a period."""
    return dict(evaluate({name: recommender.top_k}, period, metrics=METRICS).values[name])


def main() -> None:
    """Trains every system for each seed, chooses a blend, and compares it with each source alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = DataConfig(name="movielens-1m", path=str(data_folder() / "ml-1m"))
    if options.workers:
        ensure_ray(options.workers)
    base = TrainConfig.model_validate({"data": data.model_dump(), "training": {"workers": options.workers}})
    write_result(measure(read_dataset(data), [base.model_copy(update={"seed": s}) for s in range(options.seeds)]))


def measure(
    dataset: Dataset,
    configs: Sequence[TrainConfig],
    *,
    single: Mapping[str, SourcesConfig] = SINGLE,
    blends: Mapping[str, SourcesConfig] = BLENDS,
) -> dict[str, Any]:
    """The result of one seed for each config, as it is written; prints as it goes."""
    on_validation: dict[str, list[float]] = {}
    on_test: dict[str, list[UserValues]] = {}
    kept: dict[str, list[Recommender]] = {}
    rows: list[dict[str, Any]] = []
    names = {name for sources in (*single.values(), *blends.values()) for name in sources.names}
    counted: Counted = ()
    for config in configs:
        with tempfile.TemporaryDirectory() as home:
            seed = Seed.train(dataset, config, home)
            ready, (before, now) = seed.ready, seed.two_towers[-2:]
            counted = counted or seed.counted(sorted({*SOURCE_FITS} & names))
            valid = validation_period(ready, before.snapshot)
            test = EvaluationPeriod.build(
                ready.split.train, ready.split.test, at_ms=now.snapshot.at_ms, states=now.snapshot.user_states
            )
            for name, sources in {**single, **blends}.items():
                first, last = seed.systems(name, sources, counted)
                value = float(judged(first, valid, name)["ndcg@10"].mean())
                on_validation.setdefault(name, []).append(value)
                print(f"seed {config.seed}  {name:<18} validation NDCG@10 {value:.4f}", flush=True)
                if name in single:
                    on_test.setdefault(name, []).append(judged(last, test, name))
                else:
                    kept.setdefault(name, []).append(last)
    best = max(blends, key=lambda name: np.mean(on_validation[name]))
    print(f"chosen on validation: {best} {blends[best].quotas}")
    on_test[CHOSEN] = [judged(recommender, test, CHOSEN) for recommender in kept[best]]
    for name, values in on_test.items():
        rows += [
            {
                "model": name,
                "seed": config.seed,
                "log": None,
                "metrics": {metric: float(found[metric].mean()) for metric in METRICS},
            }
            for config, found in zip(configs, values, strict=True)
        ]
    paired = []
    for name in single:
        for metric in METRICS:
            paired.append(paired_row(CHOSEN, name, metric, on_test[CHOSEN], on_test[name]))
            print(f"{CHOSEN} - {name:<18} {metric:<12} {format_difference(paired[-1])}")
    goals = {(CHOSEN, "ndcg@10"): GOAL}
    summary = [
        summary_row(name, metric, rows, users=values, goal=goals.get((name, metric)))
        for name, values in on_test.items()
        for metric in METRICS
    ]
    for row in summary:
        told = format_estimate({"value": row["mean"], "std_error": row["std_error"]})
        print(f"{row['model']:<18} {row['metric']:<12} {told}  (over users ± {row['std_error_users']:.4f})")
    protocol = {
        "cut_ms": ready.split.cut_ms,
        "n_candidates": configs[0].ranker.n_candidates,
        "n_users": {"validation": len(valid), "test": len(test)},
        "blends": {name: {"first": one.first, "quotas": dict(one.quotas)} for name, one in blends.items()},
        "chosen": best,
        "validation_ndcg@10": on_validation,
        "paired": paired,
        "sources": SourceReport.of(kept[best][0].source, test, configs[0].ranker.n_candidates).to_json(),
    }
    return quality_result("blending_movielens", protocol=protocol, rows=rows, summary=summary)


if __name__ == "__main__":
    main()
