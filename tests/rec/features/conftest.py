"""A small data set of every kind of feature, whose events go on for 40 days."""

import numpy as np
import pandas as pd
import pytest

from rec.data.dataset import Dataset, Interactions
from rec.features.as_of import DAY_MS
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.schema import Feature, FeatureSchema

N_USERS, N_ITEMS, N_EVENTS = 15, 40, 300
AT_MS = 30 * DAY_MS

WORLD_SCHEMA = FeatureSchema(
    features=(
        Feature(name="age", kind="numeric", side="user"),
        Feature(name="country", kind="categorical", side="user"),
        Feature(name="genres", kind="multi_hot", side="item"),
        Feature(name="studio", kind="categorical", side="item"),
        Feature(name="year", kind="numeric", side="item"),
        Feature(name="plot", kind="text", side="item"),
        Feature(name="cover", kind="vector", side="item"),
    )
)


def random_events(rng: np.random.Generator) -> Interactions:
    """Events of all users but the last and all items but the last, on 40 days."""
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=rng.integers(N_USERS - 1, size=N_EVENTS).astype(np.int32),
        item=rng.integers(N_ITEMS - 1, size=N_EVENTS).astype(np.int32),
        timestamp=rng.integers(0, 40, size=N_EVENTS) * DAY_MS,
    )


@pytest.fixture
def world() -> Dataset:
    rng = np.random.default_rng(0)
    interactions = random_events(rng)
    users = pd.DataFrame(
        {
            "user_id": interactions.user_ids,
            "age": np.where(rng.random(N_USERS) < 0.2, np.nan, rng.integers(18, 80, N_USERS)),
            "country": rng.choice(np.array(["de", "fr", None], dtype=object), N_USERS),
        }
    )
    genres = np.array(["drama", "war", "comedy", "crime"])
    items = pd.DataFrame(
        {
            "item_id": interactions.item_ids,
            "title": [f"Film {i}" if i % 5 else None for i in range(N_ITEMS)],
            "genres": [rng.choice(genres, rng.integers(0, 4), replace=False).tolist() for _ in range(N_ITEMS)],
            "studio": rng.integers(0, 5, N_ITEMS),
            "year": rng.integers(1950, 2000, N_ITEMS) + 0.1,
            "plot": [f"the story of {rng.choice(genres)} and {i}" for i in range(N_ITEMS)],
            "cover": list(rng.normal(size=(N_ITEMS, 3))),
        }
    )
    return Dataset("world", interactions, users, items, WORLD_SCHEMA, sha256="")


@pytest.fixture
def snapshot(world: Dataset) -> Snapshot:
    encoders = Encoders.fit(world, world.interactions.before(AT_MS))
    return Snapshot.build(world, encoders, world.interactions, AT_MS, history_length=12)
