"""What towers make of items that training never saw, by the share of rows that `id_dropout` shows them as if new.

Run:    python benchmarks/quality/cold_start.py [--seeds 3]
World:  120 users and 160 items of 8 kinds. Nine in ten likes are of the user's two kinds, and half of the items of
        every kind came after the log ended. Items have one feature, their kind.
Models: the two-tower model alone, of id_dropout 0, .1 and .3, each on worlds of several seeds.
Judged: `auc`: how often an item of a kind that the user likes is above one of another kind, among new items and among
        old ones, liked or not; 1/2 by chance. `precision@10`: of the ten best of all items that the user has not had,
        how many are of such a kind; a fifth by chance. Of those there are, two in three are new.
Expect: some minutes of one core; with id_dropout new items are told apart better than without.
Writes: benchmarks/results/cold_start.json
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import quality_result, summary_row, write_result

from rec.config import QueriesConfig, RetrieverConfig, TowerConfig, TrainingConfig, UserTowerConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.models.two_tower import item_vectors, user_vectors
from rec.retriever.data import build_retrieval_data
from rec.retriever.task import RetrieverTask
from rec.schema import Feature, FeatureSchema
from rec.training import fit

DAY_MS: Final = 86_400_000
SHARES: Final = (0.0, 0.1, 0.3)
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


def auc(scores: NDArray[np.floating], likes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How often an item of a kind the user likes is above one of another kind, (U,); 1/2 by chance."""
    return np.array([(row[good][:, None] > row[~good]).mean() for row, good in zip(scores, likes, strict=True)])


def judged(world: World, scores: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Metrics of each user, (U,), by name."""
    seen = np.zeros((N_USERS, N_ITEMS), np.bool_)
    seen[world.log.user, world.log.item] = True
    best = np.where(seen, -np.inf, scores).argsort(axis=1)[:, -10:]
    return {
        "auc_new": auc(scores[:, world.is_new], world.likes[:, world.is_new]),
        "auc_old": auc(scores[:, ~world.is_new], world.likes[:, ~world.is_new]),
        "precision@10": np.take_along_axis(world.likes, best, axis=1).mean(axis=1),
    }


def main() -> None:
    """Trains, judges, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        world = World(seed)
        for share in SHARES:
            metrics = {name: float(each.mean()) for name, each in judged(world, world.scores(share, seed)).items()}
            rows.append({"model": f"id_dropout {share}", "seed": seed, "metrics": metrics})
            print(
                f"seed {seed}  id_dropout {share}  " + "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True
            )
    summary = [
        summary_row(model, metric, [row for row in rows if row["model"] == model])
        for model in dict.fromkeys(row["model"] for row in rows)
        for metric in rows[0]["metrics"]
    ]
    protocol = {"users": N_USERS, "items": N_ITEMS, "kinds": N_KINDS, "liked": N_LIKED, "seeds": options.seeds}
    write_result(quality_result("cold_start", protocol=protocol, rows=rows, summary=summary))
    for row in summary:
        print(f"{row['model']:<16} {row['metric']:<14} {row['mean']:.3f} ± {row['std_error'] or 0:.3f}")


if __name__ == "__main__":
    main()
