from collections.abc import Callable

import numpy as np
import pytest

from rec.data.dataset import Interactions

MakeLog = Callable[..., Interactions]


@pytest.fixture
def make_log() -> MakeLog:
    """Random logs in which a few items and users have most of the interactions, and days in which times repeat."""

    def make(seed: int = 0, n: int = 400, n_users: int = 30, n_items: int = 20, n_times: int = 50) -> Interactions:
        rng = np.random.default_rng(seed)
        return Interactions(
            user_ids=np.array([f"u{i}" for i in range(n_users)], dtype=object),
            item_ids=np.array([f"i{i}" for i in range(n_items)], dtype=object),
            user=(n_users * rng.random(n) ** 2).astype(np.int32),
            item=(n_items * rng.random(n) ** 2).astype(np.int32),
            timestamp=np.sort(rng.integers(n_times, size=n)),
            action=rng.integers(4, size=n).astype(np.int16),
            actions=("watched", "skipped", "liked", "other"),
        )

    return make
