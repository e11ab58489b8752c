"""A trial that Ray Tune begins again, as it does when a search is resumed."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune.result import TRIAL_INFO
from ray.tune.trainable import wrap_function

from rec.config import TrainConfig
from rec.errors import TrainingError
from tune.config import ParameterConfig, TuneConfig
from tune.search import SCORE, Search, run_trial
from tune.trials import Measured, Trial

RATE = "training.learning_rate"
VALUES = {RATE: 0.01}


@pytest.fixture
def search(tmp_path: Path, ray_session: None) -> Search:
    config = TuneConfig(parameters={RATE: ParameterConfig(choices=(0.01, 0.02))}, trials=2)
    return Search.of(tmp_path / "search", config, TrainConfig.model_validate({"training": {"workers": 0}}))


def told(search: Search, trial: str) -> dict[str, Any]:
    """What a trial tells Ray Tune first, which runs it in this process; there are no data that it could train on."""
    storage = StorageContext(str(search.folder), "tuner", trial_dir_name=trial)
    info = SimpleNamespace(trial_id=trial, trial_name=trial, trial_resources=None)
    run = wrap_function(partial(run_trial, search=search, dataset=None), name="trial")
    running = run({**VALUES, TRIAL_INFO: info}, storage=storage)
    try:
        return running.train()
    finally:
        running.stop()


def test_what_finished_is_told_again_and_not_run_again(search: Search) -> None:
    measured = Measured("ndcg@10", 0.4, 0.1, 50, score=0.3)
    before = Trial("one", VALUES, state="finished", measured=measured, epochs=(0.1, 0.2))
    search.trials.write(before)
    assert told(search, "one")[SCORE] == 0.3
    assert search.trials.all() == [before]


def test_what_failed_by_itself_fails_again_by_the_same_and_is_not_run_again(search: Search) -> None:
    before = Trial("one", VALUES, state="failed", error="the loss of epoch 1 is no number")
    search.trials.write(before)
    with pytest.raises(TrainingError, match="the loss of epoch 1 is no number"):
        told(search, "one")
    assert search.trials.all() == [before]
