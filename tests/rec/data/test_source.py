import json
from pathlib import Path
from typing import get_args

import pytest

from rec.cli import main
from rec.config import DataConfig, DataName
from rec.data.source import READERS, doubts, read_dataset, summary
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


def doubted(log: Path, **options: object) -> list[str]:
    config = DataConfig.model_validate({"name": "csv", "path": str(log), **options})
    return doubts(read_dataset(config), config)


def test_a_log_in_which_nothing_is_liked_is_doubted(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text("user_id,item_id,timestamp,action\na,x,1760000000,bought\na,y,1760000001,seen\n")
    [told] = doubted(log)
    assert "the actions are bought, seen, and positive_actions watched, liked" in told
    assert doubted(log, positive_actions=["liked", "bought"]) == []
    assert "positive_actions none" in doubted(log, positive_actions=[])[0]
    assert main(["data", "validate", "--data", "csv", "--path", str(log), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["warnings"] == [told] and f"warning: {told}" in captured.err


@pytest.mark.parametrize(
    ("times", "unit", "early"),
    [((946684799, 946684800), "s", 1), ((1760000000, 1760000001), "ms", 2), ((946684800000, 1760000000000), "ms", 0)],
)
def test_times_of_another_unit_are_doubted(log: Path, times: tuple[int, int], unit: str, early: int) -> None:
    log.write_text(f"user_id,item_id,timestamp,rating\na,x,{times[0]},4\na,y,{times[1]},1\n")
    told = doubted(log, timestamp_unit=unit)
    assert [f"{early} of 2 times" in each and f"timestamp_unit {unit} " in each for each in told] == [True] * (
        early > 0
    )


def test_times_that_bring_their_own_unit_are_those_of_their_kind(tandem_data: Path) -> None:
    config = DataConfig(name="movielens-100k", path=str(tandem_data / "ml-100k"))
    assert doubts(read_dataset(config), config) == [], "they are of 1997 and 1998"


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
