"""What `tandem train` makes of its options."""

from pathlib import Path

import pytest

from rec.cli.training import settled
from rec.config import DataConfig


def test_paths_mean_the_same_from_any_folder_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settled(DataConfig(name="csv", path="log.csv")).path == str(tmp_path / "log.csv")
    url = "s3://bucket/home?region=eu-central-1"
    assert settled(DataConfig(name="events", path=url), 7) == DataConfig(name="events", path=url, now_ms=7)
