"""Trials that learn from a log of slates are judged by what their policy would have earned in it."""

from pathlib import Path

import numpy as np
import pytest

from rec.config import DataConfig, TrainConfig
from rec.data.dataset import Dataset
from rec.data.events import FOLDER, open_events
from rec.data.source import read_dataset
from rec.data.tabular import write_side_tables
from rec.runs import Runs
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import by_category, log_slates
from rl.instatok.world import CATEGORIES
from tune.objectives import JUDGES

SMALL = {
    "retriever": {"output_dim": 8, "queries": {"min_batches": 3}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {
        "n_candidates": 20,
        "learn_from": "answers",
        "min_positives": 1,
        "lambdamart": {"trees": 5, "min_data_in_leaf": 5},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The log of a service of a small catalogue, much of it drawn uniformly."""
    folder = tmp_path_factory.mktemp("log")
    world = InstaTok(InstaTokConfig(n_users=40, n_videos=60))
    rng = np.random.default_rng(0)
    policy = by_category(rng.normal(size=len(CATEGORIES)), 50)
    log = log_slates(world, policy, n_sessions=400, k=2, epsilon=0.5, temperature=1.0, rng=rng)
    write_side_tables(world.dataset(n_sessions=1), folder / FOLDER)
    log.append_to(open_events(folder))
    return DataConfig(name="events", path=str(folder), now_ms=2_000_000_000_000)


@pytest.fixture(scope="module")
def dataset(data: DataConfig) -> Dataset:
    return read_dataset(data)


def config_of(data: DataConfig, objective: str) -> TrainConfig:
    plain = {**SMALL, "data": data.model_dump(), "retriever": {**SMALL["retriever"], "objective": objective}}
    return TrainConfig.model_validate(plain)


def test_a_retriever_is_judged_by_the_bound_that_chose_its_epoch(data, dataset, tmp_path: Path):
    config = config_of(data, "ips")
    epochs: list[dict[str, float]] = []

    def on_epoch(fit: str, metrics: dict[str, float]) -> None:
        epochs.append(metrics)

    found = JUDGES["retriever"](dataset, config, Runs(tmp_path, config, resumed=False, on_epoch=on_epoch)).measured
    best = max(epochs, key=lambda epoch: epoch["snips_low"])
    assert found.metric == "snips" and (found.value, found.score) == (best["snips"], best["snips_low"])
    assert found.std_error is not None and found.score < found.value - found.std_error
    assert found.n == best["ess"] < len(dataset.interactions)


@pytest.mark.parametrize("objective", ["logq", pytest.param("two_stage_ips", marks=pytest.mark.slow)])
def test_both_stages_are_judged_by_a_lower_bound_of_what_they_earn(data, dataset, tmp_path: Path, objective):
    config = config_of(data, objective)
    found = JUDGES["policy"](dataset, config, Runs(tmp_path, config, resumed=False)).measured
    assert found.metric == "sn_cascade" and found.std_error is not None
    # A two-sided interval of 95%: normal, or Student's over users, of whom there are ten at least.
    assert 1.95 < (found.value - found.score) / found.std_error < 2.27
    # The validation period is a small part of the log, of which no slate weighs more than one.
    assert 1 < found.n < 400
    assert 0 <= found.value <= 2, "two items a slate, each worth 1 at most"
