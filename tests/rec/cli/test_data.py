"""`tandem data` writes where it is told to, into an object store, too."""

from pathlib import Path

import pandas as pd
import pytest

from rec.cli import main
from rec.config import DataConfig
from rec.data.logged import read_logged
from rec.data.tabular import read_parquet
from rec.storage import Home

WORLD = ("--n-users", "20", "--n-videos", "60", "--n-sessions", "100")


def test_a_log_and_what_was_before_it_are_written_into_an_object_store(
    remote_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(remote_home)
    assert main(["data", "generate", "--kind", "events", "--out", remote_home, *WORLD]) == 0
    assert {"users.parquet", "items.parquet", "requests"} <= set(home.children("events"))
    assert len(read_logged(DataConfig(name="events", path=remote_home)).users.columns) > 1

    assert main(["data", "generate", "--out", "here", *WORLD]) == 0
    importing = ["data", "import", "--data", "parquet", "--path", "here"]
    assert main([*importing, "--out", f"{remote_home}/events"]) == 0
    (tmp_path / "there").mkdir()
    home.download("events/interactions.parquet", tmp_path / "there" / "interactions.parquet")
    here = read_parquet(DataConfig(name="parquet", path="here")).interactions.to_frame()
    there = read_parquet(DataConfig(name="parquet", path="there")).interactions.to_frame()
    pd.testing.assert_frame_equal(there, here)

    assert main([*importing, "--format", "recbole", "--out", f"{remote_home}/shop"]) == 0
    assert home.children("shop") == ["shop.inter", "shop.item", "shop.user"]
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "there", "cache"}
