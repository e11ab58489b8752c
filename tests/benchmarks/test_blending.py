"""The blending benchmark on a small world: the blend is chosen where the test cannot be seen."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rec.config import LambdaMARTConfig, QueriesConfig, RankerConfig, RetrieverConfig, SourcesConfig, TrainConfig
from rec.config import TrainingConfig as Training
from rec.preparation import prepare
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    sys.modules.pop("blending_movielens", None)


@pytest.mark.slow
def test_the_test_period_has_no_say_in_the_choice(monkeypatch: pytest.MonkeyPatch):
    import blending_movielens as benchmark

    monkeypatch.setattr(benchmark, "quality_result", lambda name, **parts: parts)
    config = TrainConfig(
        retriever=RetrieverConfig(output_dim=8, queries=QueriesConfig(min_batches=3)),
        ranker=RankerConfig(
            n_candidates=20, min_positives=1, lambdamart=LambdaMARTConfig(trees=5, min_trees=2, min_data_in_leaf=5)
        ),
        training=Training(workers=0, epochs=1),
    )
    single = {"two_tower": SourcesConfig(), "popularity": SourcesConfig(first="popularity")}
    blends = {name: SourcesConfig(quotas={name: 8}) for name in ("popularity", "fresh")}
    dataset = InstaTok(InstaTokConfig(n_users=40, n_videos=60, sessions_per_user=8)).dataset()
    cut_ms = prepare(dataset, config).split.cut_ms
    assert cut_ms is not None
    log = dataset.interactions
    item = log.item.copy()
    future = log.timestamp >= cut_ms
    item[future] = np.random.default_rng(0).permutation(log.n_items)[item[future]]
    other = replace(dataset, interactions=replace(log, item=item))
    found, changed = (benchmark.measure(data, [config], single=single, blends=blends) for data in (dataset, other))
    assert {row["model"] for row in found["rows"]} == {"two_tower", "popularity", "blend"}
    assert changed["rows"] != found["rows"], "the test period has to differ"
    assert changed["protocol"]["validation_ndcg@10"] == found["protocol"]["validation_ndcg@10"]
    values = found["protocol"]["validation_ndcg@10"]
    assert found["protocol"]["chosen"] == changed["protocol"]["chosen"] == max(blends, key=lambda one: values[one])
