from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from rec.config import QueriesConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.retrieval_data import RetrievalData, build_retrieval_data, build_validation
from rec.schema import FeatureSchema

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
