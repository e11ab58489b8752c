"""Rows whose labels are known functions of their features, for every pointwise ranker."""

from collections.abc import Callable

import numpy as np
import pytest

from rec.config import TaskConfig
from rec.ranking.data import FeatureLayout, RankingData

LAYOUT = FeatureLayout(("a", "b", "colour"), ("colour",))
TASKS = (TaskConfig(name="click"), TaskConfig(name="rating", kind="regression", weight=0.5), TaskConfig(name="share"))


@pytest.fixture(scope="session")
def tasks() -> tuple[TaskConfig, ...]:
    return TASKS


@pytest.fixture(scope="session")
def three_tasks() -> Callable[..., RankingData]:
    """Clicks follow a and the colour, ratings follow b, shares are seldom labelled."""

    def make(n_queries: int = 150, seed: int = 0) -> RankingData:
        rng = np.random.default_rng(seed)
        groups = rng.integers(5, 15, n_queries)
        rows = int(groups.sum())
        matrix = np.stack([rng.normal(5, 3, rows), rng.normal(size=rows), rng.integers(0, 4, rows)], axis=1)
        matrix = matrix.astype(np.float32)
        click = ((matrix[:, 0] - 5) / 3 + 2 * (matrix[:, 2] == 2) > 1).astype(np.float32)
        rating = 3 + matrix[:, 1]
        share = np.where(rng.random(rows) < 0.1, click, np.nan)
        labels = np.stack([click, rating, share], axis=1).astype(np.float32)
        return RankingData(LAYOUT, matrix, labels, groups, tuple(task.name for task in TASKS))

    return make


@pytest.fixture(scope="session")
def shown_by_a() -> Callable[[int], tuple[RankingData, np.ndarray]]:
    """Slates of ten in which what has a large `a` stands near the top, of which people like the large `b`.

    The logit of a click is 1.5 b less .4 a position: a says where an item stood, and nothing of how good it is.
    Returns: the data, and the probability of a click were the row at the top.
    """

    def make(seed: int) -> tuple[RankingData, np.ndarray]:
        rng = np.random.default_rng(seed)
        shape = (800, 10)
        a, b = rng.normal(size=shape), rng.normal(size=shape).ravel()
        position = np.argsort(np.argsort(-(a + rng.normal(size=shape)), axis=1), axis=1).ravel()
        logit = 1.5 * b - 0.5
        click = rng.random(len(b)) < 1 / (1 + np.exp(0.4 * position - logit))
        matrix = np.stack([a.ravel(), b, np.zeros_like(b)], axis=1).astype(np.float32)
        labels, groups = click[:, None].astype(np.float32), np.full(shape[0], shape[1])
        data = RankingData(LAYOUT, matrix, labels, groups, ("click",), position.astype(np.int16))
        return data, 1 / (1 + np.exp(-logit))

    return make
