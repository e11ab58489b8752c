"""Half of the items are new: what the towers make of features alone."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.config import QueriesConfig, RetrieverConfig, TowerConfig, TrainingConfig, UserTowerConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.metrics import mean_over_users, paired_difference
from rec.models.two_tower import item_vectors, user_vectors
from rec.retrieval_data import build_retrieval_data
from rec.retriever_task import RetrieverTask
from rec.schema import Feature, FeatureSchema
from rec.training import fit

DAY_MS = 86_400_000
N_USERS, N_ITEMS, N_KINDS, N_LIKED, END_MS = 120, 160, 8, 12, 100 * DAY_MS


class World:
    """Nine in ten likes are of the user's two kinds out of eight; half of each kind is new: no training has seen it."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.kind = np.arange(N_ITEMS) % N_KINDS
        self.is_new = np.arange(N_ITEMS) // N_KINDS % 2 == 1
        self.favourites = rng.random((N_USERS, N_KINDS)).argsort(axis=1)[:, :2]
        self.likes = (self.kind[None, :, None] == self.favourites[:, None, :]).any(axis=2)
        odds = np.where(self.likes, 0.9 / 2, 0.1 / (N_KINDS - 2)) * ~self.is_new
        odds /= odds.sum(axis=1, keepdims=True)
        item = np.concatenate([rng.choice(N_ITEMS, N_LIKED, replace=False, p=p) for p in odds])
        times = np.sort(rng.integers(DAY_MS, END_MS, (N_USERS, N_LIKED)), axis=1)
        user_ids = np.array([f"u{number}" for number in range(N_USERS)], dtype=object)
        item_ids = np.array([f"i{number}" for number in range(N_ITEMS)], dtype=object)
        self.log = Interactions(
            user_ids, item_ids, np.repeat(np.arange(N_USERS), N_LIKED).astype(np.int32), item.astype(np.int32),
            times.ravel(),
        )  # fmt: skip
        schema = FeatureSchema(features=(Feature(name="kind", kind="categorical", side="item"),))
        users = pd.DataFrame({"user_id": user_ids})
        items = pd.DataFrame({"item_id": item_ids, "kind": [f"k{kind}" for kind in self.kind]})
        self.dataset = Dataset("half-new", self.log, users, items, schema, "0")
        self.encoders = Encoders.fit(self.dataset, self.log)
        self.snapshot = Snapshot.build(self.dataset, self.encoders, self.log, END_MS, 10)

    def scores(self, id_dropout: float, seed: int = 0) -> NDArray[np.floating]:
        """What a two-tower model trained on the log says of all pairs, (U, N)."""
        queries = QueriesConfig(snapshots=4, half_life_days=None, horizon_days=None, min_batches=20)
        config = RetrieverConfig(
            user_tower=UserTowerConfig(history_windows=(10,), embedding_dim=16, hidden=(32,)),
            item_tower=TowerConfig(embedding_dim=16, hidden=(32,), id_dropout=id_dropout),
            output_dim=16,
            mixed_negatives=32,
            positives_per_query=1,
            queries=queries,
        )
        data = build_retrieval_data(self.dataset, self.encoders, self.log, self.log, queries, end_ms=END_MS)
        task = RetrieverTask(data, config, 128, seed=seed)
        fitted = fit(task, TrainingConfig(workers=0, epochs=24, batch_size=128, learning_rate=0.01), seed=seed)
        model = task.build_model()
        model.load_state_dict(fitted.weights)
        states = self.snapshot.user_states(np.arange(N_USERS))
        users = user_vectors(model, states.features, self.snapshot.history_slots(states.history))
        return users @ item_vectors(model, self.snapshot.items).T


def _auc(scores: NDArray[np.floating], likes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How often an item of a kind the user likes is above one of another kind, (U,); 1/2 by chance."""
    return np.array([(row[good][:, None] > row[~good]).mean() for row, good in zip(scores, likes, strict=True)])


def test_features_answer_for_the_half_of_the_items_that_training_never_saw():
    """Chance is 1/2 and the kind tells all, so what learned to answer from features is nearer to 1 than to chance.

    Without id dropout the towers never met an unknown id, nor an item without events that somebody liked. Then new
    items are told apart worse, and lists of everything unseen, of which two good items in three are new, hold fewer
    good ones.
    """
    world = World()
    seen = np.zeros((N_USERS, N_ITEMS), np.bool_)
    seen[world.log.user, world.log.item] = True
    auc, precision = {}, {}
    for id_dropout in (0.0, 0.3):
        scores = world.scores(id_dropout)
        auc[id_dropout] = _auc(scores[:, world.is_new], world.likes[:, world.is_new])
        best = np.where(seen, -np.inf, scores).argsort(axis=1)[:, -10:]
        precision[id_dropout] = np.take_along_axis(world.likes, best, axis=1).mean(axis=1)
    low = mean_over_users(auc[0.3]).low
    assert low is not None and low > 0.75
    for metric in (auc, precision):
        gained = paired_difference(metric[0.3], metric[0.0]).low
        assert gained is not None and gained > 0
