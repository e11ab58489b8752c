"""A world whose users want every second item, shown at random and unevenly, and what is learned from its rounds."""

from dataclasses import replace

import numpy as np
import pandas as pd

from rec.config import OffPolicyConfig, QueriesConfig, RetrieverConfig, TowerConfig, UserTowerConfig
from rec.data.dataset import Dataset, Interactions
from rec.data.rounds import Lists, Requests, Rounds
from rec.features.encoders import Encoders
from rec.retriever.logged_data import build_logged_data
from rec.retriever.off_policy_task import OffPolicyTask, RewardModel
from rec.retriever.ranker_scores import RankerTables
from rec.schema import FeatureSchema

DAY_MS = 86_400_000
N_USERS, N_ITEMS, N_REQUESTS = 60, 40, 24
CUT_MS = 80 * DAY_MS
CONFIG = RetrieverConfig(
    objective="ips",
    user_tower=UserTowerConfig(embedding_dim=8, hidden=(16,), history_windows=(20,)),
    item_tower=TowerConfig(embedding_dim=8, hidden=(16,)),
    output_dim=8,
    softmax_temperature=0.1,
    queries=QueriesConfig(snapshots=4, min_batches=1),
)
# More items than there are draws, and an index that is older than the model at every second step.
SAMPLED = {"sampled_items": 16, "neighbors": 8, "uniform_share": 0.3, "rebuild_steps": 2}


def logged_world(slate: int = 1) -> Dataset:
    """Slates of different items drawn one after the other by popularity, which says nothing about what users want."""
    rng = np.random.default_rng(0)
    popularity = np.linspace(1, 6, N_ITEMS)
    n = N_USERS * N_REQUESTS
    user = np.repeat(np.arange(N_USERS), N_REQUESTS)
    at_ms = rng.integers(DAY_MS, 100 * DAY_MS, n)
    left = np.tile(popularity, (n, 1))
    items, propensities = np.empty((n, slate), np.int64), np.empty((n, slate))
    for position in range(slate):
        p = left / left.sum(axis=1, keepdims=True)
        items[:, position] = [rng.choice(N_ITEMS, p=row) for row in p]
        propensities[:, position] = p[np.arange(n), items[:, position]]
        left[np.arange(n), items[:, position]] = 0
    user_ids = np.array([f"u{number}" for number in range(N_USERS)], dtype=object)
    item_ids = np.array([f"i{number}" for number in range(N_ITEMS)], dtype=object)
    request = np.repeat(np.arange(n), slate).astype(np.int32)
    item = items.ravel()
    reward = ((user[request] + item) % 2 == 0).astype(float)
    position = np.tile(np.arange(slate), n).astype(np.int16)
    names, nothing = np.array([str(row) for row in range(n)], dtype=object), Lists(np.zeros(n + 1, int), np.zeros(0))
    requests = Requests(
        names, user_ids[user], at_ms, np.zeros(n), np.ones(n), np.full(n, slate, np.int16), nothing,
        np.zeros(n, bool), nothing, nothing, names, np.zeros(n, bool), nothing, ({},) * n,
    )  # fmt: skip
    text = np.full(len(request), "x", dtype=object)
    rounds = Rounds(
        request, user_ids[user[request]], item_ids[item], position, propensities.ravel(), reward, at_ms[request],
        np.int64(N_ITEMS) - position, text, text, requests, attribution_s=0,
    )  # fmt: skip
    liked = np.flatnonzero(reward)
    order = liked[np.argsort(at_ms[request[liked]], kind="stable")]
    interactions = Interactions(
        user_ids, item_ids, user[request[order]].astype(np.int32), item[order].astype(np.int32), at_ms[request[order]]
    )
    frames = pd.DataFrame({"user_id": user_ids}), pd.DataFrame({"item_id": item_ids})
    return Dataset("logged", interactions, *frames, FeatureSchema(), "0", rounds=rounds)


def off_policy_task(dataset: Dataset, objective: str = "ips", **settings) -> OffPolicyTask:
    encoders = Encoders.fit(dataset, dataset.interactions.before(CUT_MS))
    data = build_logged_data(
        dataset, encoders, dataset.interactions, CONFIG.queries, end_ms=CUT_MS, valid_until_ms=100 * DAY_MS
    )
    config = CONFIG.model_copy(update={"objective": objective})
    task = OffPolicyTask(data, config, OffPolicyConfig(n_slates=20, slate_size=5, **settings), batch_size=256, seed=0)
    if objective == "two_stage_ips":
        # A ranker that knows nothing: what it is given decides.
        task = replace(task, ranker=RankerTables(np.zeros((1, N_USERS, N_ITEMS), np.float32), np.zeros(1, int)))
    if objective == "dr":
        weights = task.build_model().state_dict()
        task = replace(task, reward_model=RewardModel(np.zeros((len(data.item), 8), np.float32), (weights, weights)))
    return task
