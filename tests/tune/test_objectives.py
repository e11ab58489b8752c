"""What trials of training are judged by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rec.config import DataConfig, TrainConfig
from rec.data.dataset import Dataset
from rec.errors import ConfigError
from rec.runs import Runs
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from tune.objectives import JUDGES, judged_fit, refuse_unjudged

SMALL = {
    "retriever": {"output_dim": 8, "queries": {"min_batches": 3}},
    "training": {"workers": 0, "epochs": 2},
    "ranker": {
        "n_candidates": 60,
        "learn_from": "answers",
        "min_positives": 1,
        "lambdamart": {"trees": 5, "min_data_in_leaf": 5},
    },
}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=60, n_videos=200, sessions_per_user=8)).dataset(n_sessions=480)


def with_other_test(dataset: Dataset) -> Dataset:
    """The same data up to the test, in which everybody then likes what others did."""
    log = dataset.interactions
    liked = log.positives(min_rating=3.0, positive_actions=DataConfig().positive_actions)
    times = np.sort(liked.timestamp)
    later = np.flatnonzero(log.timestamp >= times[int(0.8 * len(times))])
    item = log.item.copy()
    item[later] = np.random.default_rng(0).permutation(item[later])
    return replace(dataset, interactions=replace(log, item=item))


@pytest.mark.parametrize("judge", ["retriever", pytest.param("both", marks=pytest.mark.slow)])
def test_what_happens_in_the_test_changes_nothing(dataset: Dataset, judge, tmp_path: Path):
    config = TrainConfig.model_validate(SMALL)
    found = [
        JUDGES[judge](each, config, Runs(tmp_path / name, config, resumed=False))
        for name, each in (("as it is", dataset), ("other", with_other_test(dataset)))
    ]
    one, other = (judged.measured for judged in found)
    assert one == other
    assert one.metric == "ndcg@10" and one.value > 0 and one.std_error is not None and one.std_error > 0
    assert found[0].each is not None and found[1].each is not None
    assert len(found[0].each) == one.n and np.array_equal(found[0].each, found[1].each)


def test_the_best_epoch_is_what_the_retriever_is_judged_by(dataset: Dataset, tmp_path: Path):
    config = TrainConfig.model_validate(SMALL)
    epochs = []

    def on_epoch(fit: str, metrics: dict[str, float]) -> None:
        assert fit == judged_fit(config)
        epochs.append(metrics["ndcg@10"])

    found = JUDGES["retriever"](dataset, config, Runs(tmp_path, config, resumed=False, on_epoch=on_epoch)).measured
    assert found.value == pytest.approx(max(epochs), rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "judge", "asha", "told"),
    [
        ({"retriever": {"objective": "two_stage_ips"}}, "retriever", False, "behind a ranker: take judge both"),
        ({"retriever": {"objective": "regression"}}, "retriever", False, "is no policy"),
        ({}, "policy", False, "data events; found instatok"),
        ({}, "both", True, "take judge retriever"),
        ({"incremental": {"parent": "current"}}, "both", False, "leave the parent out"),
        ({"incremental": {"catalogue": "current"}}, "both", False, "leave the catalogue out"),
    ],
)
def test_what_cannot_be_judged_is_refused(changed, judge, asha, told):
    with pytest.raises(ConfigError, match=told):
        refuse_unjudged(TrainConfig.model_validate(changed), judge, asha=asha)
