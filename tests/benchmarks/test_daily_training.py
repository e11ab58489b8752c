"""The benchmark of daily training on a small world."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec.config import IncrementalConfig, TrainConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"
SMALL = {
    "retriever": {"output_dim": 8, "queries": {"min_batches": 2, "snapshots": 5}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {
        "n_candidates": 20,
        "min_positives": 1,
        "queries_per_period": 50,
        "lambdamart": {"trees": 5, "min_trees": 2, "min_data_in_leaf": 5},
    },
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import daily_training

    yield daily_training
    sys.modules.pop("daily_training", None)


@pytest.fixture
def pace(benchmark: Any) -> Any:
    return benchmark.Pace(users=40, videos=40, sessions=60, new_users=3, new_videos=4)


def test_days_follow_each_other_and_bring_new_users_and_videos(benchmark: Any, pace: Any) -> None:
    days = list(benchmark.daily(pace, 4, seed=1, first=1))
    assert [day.interactions.n_items for day in days] == [44, 48, 52]
    assert [day.interactions.n_users for day in days] == [43, 46, 49]
    for before, after in itertools.pairwise(days):
        n = len(before.interactions)
        for column in ("user", "item", "timestamp", "action"):
            earlier, later = (getattr(each.interactions, column) for each in (before, after))
            np.testing.assert_array_equal(later[:n], earlier)
        assert after.interactions.timestamp[n:].min() > before.interactions.timestamp.max()
        assert (after.interactions.item[n:] >= before.interactions.n_items).any()


def test_the_ratio_is_of_means_and_equal_models_have_ratio_one(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    theirs, user = rng.random(400), np.repeat(np.arange(100), 4)
    found = benchmark.ratio(1.1 * theirs, theirs, user)
    assert found["ratio"] == pytest.approx(1.1) == pytest.approx(found["low"]) == pytest.approx(found["high"])
    noisy = benchmark.ratio(theirs + rng.normal(scale=0.1, size=400), theirs, user)
    assert noisy["low"] < 1 < noisy["high"] and noisy["n_users"] == 100
    # Four copies of a user are one user.
    once = benchmark.clustered_error(theirs[:100] - theirs[:100].mean(), np.arange(100))
    copies = benchmark.clustered_error(np.repeat(theirs[:100] - theirs[:100].mean(), 4), user)
    assert copies == pytest.approx(once)


@pytest.mark.slow
def test_both_ways_are_judged_on_the_same_users_day_by_day(benchmark: Any, pace: Any) -> None:
    config = TrainConfig.model_validate({**benchmark.CONFIG, **SMALL})
    on = config.model_copy(update={"incremental": IncrementalConfig(parent="CURRENT")})
    found = benchmark.measure(pace, config, {"anew": config, "on": on}, warm_up=3, days=2, seed=0)
    assert [(row["model"], row["log"]) for row in found.rows] == [
        (model, day) for day in (1, 2) for model in ("anew", "on", "frozen")
    ]
    n = sum(map(len, found.users))
    assert {len(found.joined(model, "two_stage ndcg@10")) for model in found.values} == {n}
    summary, ratios = benchmark.summarised(found)
    assert len(summary) == 12 and set(ratios) == {"on / anew", "frozen / anew"}
    assert 0 < found.seconds("on") and 0 < found.seconds("anew")
