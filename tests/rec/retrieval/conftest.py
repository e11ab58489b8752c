from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rec.data.dataset import Interactions
from rec.state import UserStates

DAY_MS = 86_400_000


def _interactions(
    pairs: list[tuple[int, int]], n_users: int, n_items: int, days: list[int] | None = None
) -> Interactions:
    user, item = np.array(pairs, np.int32).T
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(n_users)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(n_items)], dtype=object),
        user=user,
        item=item,
        timestamp=np.array(days if days is not None else [0] * len(pairs), np.int64) * DAY_MS,
    )


def _states(
    users: list[int], history: list[list[int]] | None = None, excluded: list[list[int]] | None = None
) -> UserStates:
    rows = history or [[] for _ in users]
    runs = excluded or [[] for _ in users]
    return UserStates(
        user=np.array(users, np.int32),
        at_ms=np.zeros(len(users), np.int64),
        history=np.array([[-1] * (5 - len(row)) + row for row in rows], np.int32),
        features={},
        excluded_indptr=np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64),
        excluded=np.array([item for run in runs for item in run], np.int32),
    )


@pytest.fixture
def resident_mib() -> Callable[[Path], float]:
    """How much of a mapped file is in this process."""

    def measured(file: Path) -> float:
        smaps = Path("/proc/self/smaps")
        if not smaps.exists():
            pytest.skip("only Linux says what of a file is in memory")
        total, counts = 0, False
        for line in smaps.read_text().splitlines():
            first = line.split(maxsplit=1)[0]
            if not first.endswith(":"):
                counts = line.endswith(f" {file.resolve()}")
            elif counts and first == "Rss:":
                total += int(line.split()[1])
        return total / 2**10

    return measured


@pytest.fixture
def make_interactions() -> Callable[..., Interactions]:
    """Interactions from (user, item) pairs, all on day 0 unless told."""
    return _interactions


@pytest.fixture
def make_states() -> Callable[..., UserStates]:
    """States of user positions, with histories and what is excluded."""
    return _states


@pytest.fixture
def random_interactions() -> Interactions:
    """50 users, 20 items, 300 likes, some of them twice."""
    rng = np.random.default_rng(0)
    return _interactions(list(zip(rng.integers(0, 50, 300), rng.integers(0, 20, 300), strict=True)), 50, 20)


@pytest.fixture
def checkerboard() -> Interactions:
    """40 users who like 7 of the 10 items of their own colour."""
    rng = np.random.default_rng(1)
    return _interactions([(u, 2 * i + u % 2) for u in range(40) for i in rng.permutation(10)[:7]], 40, 20)
