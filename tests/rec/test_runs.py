"""The record of a run."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rec.config import DataConfig, TrainConfig
from rec.errors import ConfigError
from rec.runs import Runs, recorded_config
from rec.storage import Home


def test_a_run_remembers_as_of_when_its_data_were(tmp_path: Path) -> None:
    home, dataset = Home(str(tmp_path)), SimpleNamespace(name="events", sha256="0" * 64)
    config = TrainConfig(data=DataConfig(name="events", path="log", now_ms=1_700_000_000_000))
    anything: Any = dataset
    run = Runs.begin(home, config, anything)
    assert recorded_config(home, run.folder.name) == config
    assert Runs.resume(home, run.folder.name, config, anything).resumed
    with pytest.raises(ConfigError, match="another config"):
        later = config.data.model_copy(update={"now_ms": 1_700_000_000_001})
        Runs.resume(home, run.folder.name, config.model_copy(update={"data": later}), anything)
    with pytest.raises(ConfigError, match="no run 'nowhere'"):
        recorded_config(home, "nowhere")
    with pytest.raises(ConfigError, match="name of a run is required"):
        recorded_config(home, "")


def test_an_empty_name_resumes_nothing_instead_of_beginning_anew(tmp_path: Path) -> None:
    anything: Any = SimpleNamespace(name="events", sha256="0" * 64)
    with pytest.raises(ConfigError, match="name of a run is required") as raised:
        Runs.resume(Home(str(tmp_path)), "", TrainConfig(), anything)
    assert raised.value.field == "resume"


@pytest.mark.parametrize(
    ("record", "field", "message"),
    [
        ({"config": {"retriever": {"towers": 2}}, "data": {"sha256": "0"}}, "config.retriever.towers", "no such field"),
        ({"config": {"agent": "dqn"}, "data": {"sha256": "0"}}, "config.agent", "another command"),
        ({"config": {"seed": 1}, "data": {"steps": 10}}, None, "no record of `tandem train`"),
        ("not JSON {", None, "no record of `tandem train`"),
    ],
)
def test_records_that_are_no_runs_of_this_version_are_named(
    tmp_path: Path, record: Any, field: str | None, message: str
) -> None:
    file = tmp_path / "runs" / "old" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(record if isinstance(record, str) else json.dumps(record))
    anything: Any = SimpleNamespace(name="events", sha256="0")
    home = Home(str(tmp_path))
    for read in (partial(recorded_config, home, "old"), partial(Runs.resume, home, "old", TrainConfig(), anything)):
        with pytest.raises(ConfigError, match=message) as raised:
            read()
        assert (raised.value.file, raised.value.field) == (str(file), field)
