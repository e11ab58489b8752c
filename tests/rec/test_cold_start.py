"""Half of the items are new: what the towers make of features alone, in the world of the benchmark."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rec.metrics import mean_over_users, paired_difference

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cold_start

    yield cold_start
    sys.modules.pop("cold_start", None)


def test_features_answer_for_the_half_of_the_items_that_training_never_saw(benchmark: Any):
    """Chance is 1/2 and the kind tells all, so what learned to answer from features is nearer to 1 than to chance.

    Without id dropout the towers never met an unknown id, nor an item without events that somebody liked. Then new
    items are told apart worse, and lists of everything unseen, of which two good items in three are new, hold fewer
    good ones.
    """
    world = benchmark.World()
    without, dropped = (benchmark.judged(world, world.scores(share)) for share in (0.0, 0.3))
    low = mean_over_users(dropped["auc_new"]).low
    assert low is not None and low > 0.75
    for metric in ("auc_new", "precision@10"):
        gained = paired_difference(dropped[metric], without[metric]).low
        assert gained is not None and gained > 0
