from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray

from rec.config import QueriesConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.preparation import Prepared, snapshot_at
from rec.ranking.fits import RankingPeriods
from rec.retriever.data import RetrievalData, build_retrieval_data, build_validation
from rec.schema import FeatureSchema
from rec.training import TrainingTask, Worker

DAY_MS = 86_400_000
N_USERS, N_ITEMS, N_LIKED = 80, 60, 14


@dataclass(frozen=True)
class Checkerboard:
    """User u likes item i when u + i is even; nothing but the ids says so. The last like of each user is held out."""

    dataset: Dataset
    encoders: Encoders
    cut_ms: int

    def retrieval_data(self, queries: QueriesConfig, *, history_length: int = 20) -> RetrievalData:
        liked = self.dataset.interactions
        snapshot = Snapshot.build(self.dataset, self.encoders, liked, self.cut_ms, history_length)
        held_out = liked.take(liked.timestamp >= self.cut_ms)
        valid = build_validation(snapshot, held_out, history_length=history_length)
        return build_retrieval_data(self.dataset, self.encoders, liked, liked, queries, end_ms=self.cut_ms, valid=valid)


@pytest.fixture(scope="session")
def checkerboard() -> Checkerboard:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N_USERS, dtype=np.int32), N_LIKED)
    item = np.concatenate(
        [rng.permutation(np.arange(owner % 2, N_ITEMS, 2))[:N_LIKED] for owner in range(N_USERS)]
    ).astype(np.int32)
    cut_ms = 100 * DAY_MS
    times = np.sort(rng.integers(DAY_MS, cut_ms, (N_USERS, N_LIKED)), axis=1)
    times[:, -1] = cut_ms + np.arange(N_USERS)
    user_ids = np.array([f"u{number}" for number in range(N_USERS)], dtype=object)
    item_ids = np.array([f"i{number}" for number in range(N_ITEMS)], dtype=object)
    interactions = Interactions(user_ids, item_ids, user, item, times.ravel())
    dataset = Dataset(
        "checkerboard",
        interactions,
        pd.DataFrame({"user_id": user_ids}),
        pd.DataFrame({"item_id": item_ids, "title": item_ids}),
        FeatureSchema(),
        "0",
    )
    return Checkerboard(dataset, Encoders.fit(dataset, interactions.before(cut_ms)), cut_ms)


@pytest.fixture
def untrained_periods() -> Callable[[Prepared, TrainConfig], RankingPeriods]:
    """The ranker's periods as the pipeline makes them, with retrievers of one seed that learned nothing."""
    import torch

    from rec.models.two_tower import TwoTower
    from rec.retrieval.two_tower import TwoTowerSource
    from rec.source_fits import as_retriever, fit_sources

    def periods(ready: Prepared, config: TrainConfig) -> RankingPeriods:
        torch.manual_seed(0)
        model = TwoTower(config.retriever, ready.encoders.specs)
        snapshots = [snapshot_at(ready, config, at_ms) for at_ms in ready.period_starts]
        counted = [fit_sources(ready.split.train, snapshot, config, log=ready.log) for snapshot in snapshots]
        sources = [
            as_retriever(TwoTowerSource.build(model, snapshot), others, config)
            for snapshot, others in zip(snapshots, counted, strict=True)
        ]
        return RankingPeriods(ready, config, snapshots, sources)

    return periods


Gradients = dict[str, np.ndarray]
Case = tuple[TrainingTask, Any]


@pytest.fixture
def two_workers_agree(ray_session: None, tmp_path: Path) -> Callable[[Sequence[Case]], None]:
    """Asserts of cases, a task and a batch each, that two workers have the gradient of one."""

    # Nested, so that it travels by value: workers cannot import test modules.
    def gradients(cases: Sequence[Case], worker: Worker, distribute: Callable) -> list[Gradients]:
        import torch

        found = []
        for task, batch in cases:
            torch.manual_seed(0)
            model = task.build_model()
            # Gradients are shared as long as what shares them lives.
            shared = distribute(model)
            task.loss(shared, batch, worker).backward()
            gradient = {name: p.grad for name, p in model.named_parameters()}
            found.append({name: g.to_dense().numpy() for name, g in gradient.items() if g is not None})
        return found

    @ray.remote(num_cpus=1, max_calls=1)
    def of_worker(rank: int, cases: Sequence[Case], file: str) -> list[Gradients]:
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        from rec.training import Worker

        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
        found = gradients(cases, Worker(rank, 2), DistributedDataParallel)
        dist.destroy_process_group()
        return found

    def agree(cases: Sequence[Case]) -> None:
        both = ray.get([of_worker.remote(rank, cases, str(tmp_path / "meeting")) for rank in range(2)])
        alone = gradients(cases, Worker(), lambda model: model)
        for (task, _), expected, *shared in zip(cases, alone, *both, strict=True):
            largest = max(np.abs(gradient).max() for gradient in expected.values())
            assert largest > 0
            for found in shared:
                for name, gradient in expected.items():
                    # Of parameters that hardly move, the difference is judged against the largest gradient there is.
                    scale = max(np.abs(gradient).max(), 1e-2 * largest)
                    difference = np.abs(found[name] - gradient).max() / scale
                    assert difference <= 1e-5, f"{name} differs by {difference:.2e}: {task.config}"

    return agree
