import json
from pathlib import Path
from typing import get_args

import pytest

from rec.config import DataConfig, DataName
from rec.data.source import READERS, read_dataset, summary
from rec.errors import ConfigError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,rating\na,x,100,4\na,y,101,1\n")
    return path


def test_every_name_of_the_config_is_read_or_generated() -> None:
    assert set(get_args(DataName)) == set(READERS) | {"instatok"}


def test_a_summary_is_json_and_says_what_there_is(log: Path) -> None:
    answer = summary(read_dataset(DataConfig(name="csv", path=str(log))))
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["n_rows"], answer["n_users"], answer["n_items"], answer["mean_rating"]) == (2, 1, 2, 2.5)
    assert answer["first"] == "1970-01-01T00:01:40+00:00"


def test_a_summary_counts_actions(log: Path) -> None:
    log.write_text(log.read_text().replace("rating", "action"))
    assert summary(read_dataset(DataConfig(name="csv", path=str(log))))["actions"] == {"1": 1, "4": 1}


@pytest.mark.parametrize("name", sorted(READERS))
def test_data_that_are_read_need_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="--path"):
        read_dataset(DataConfig.model_validate({"name": name}))


def test_generated_data_are_not_read() -> None:
    with pytest.raises(ConfigError, match="generated"):
        read_dataset(DataConfig(name="instatok", path="somewhere"))


def test_equal_content_has_an_equal_hash_and_any_change_another(log: Path) -> None:
    config = DataConfig(name="csv", path=str(log))
    original = read_dataset(config).sha256
    assert read_dataset(config).sha256 == original
    for old, new in (("a,x", "b,x"), ("100", "99"), (",4", ",5"), ("a,y,101,1", "a,y,101,1\na,z,102,1")):
        text = log.read_text()
        log.write_text(text.replace(old, new))
        assert read_dataset(config).sha256 != original
        log.write_text(text)
