"""What `tandem train` makes of its options."""

from pathlib import Path

import pytest

from rec.cli.training import settled
from rec.config import DataConfig, SourcesConfig, TrainConfig
from rec.errors import ConfigError


def test_paths_mean_the_same_from_any_folder_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settled(TrainConfig(data=DataConfig(name="csv", path="log.csv"))).data.path == str(tmp_path / "log.csv")
    for url in ("s3://bucket/home?region=eu-central-1", "abfs://container@account.dfs.core.windows.net/home"):
        given = TrainConfig(data=DataConfig(name="events", path=url))
        assert settled(given, 7).data == DataConfig(name="events", path=url, now_ms=7)


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/home",
        "s3://KEY@bucket/home",
        "abfs://container:SECRET@account.dfs.core.windows.net",
        "abfs://container@account.dfs.core.windows.net/home?sv=2020&sig=SECRET",
    ],
)
def test_credentials_are_not_kept_with_a_run(url: str) -> None:
    batch = SourcesConfig.model_validate({"quotas": {"batch": 10}, "batch": url})
    for config, field in (
        (TrainConfig(data=DataConfig(name="events", path=url)), "data.path"),
        (TrainConfig(sources=batch), "sources.batch"),
    ):
        with pytest.raises(ConfigError, match=r"without credentials is required.*AWS_ACCESS_KEY_ID") as error:
            settled(config)
        assert error.value.field == field and url not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/home?region=eu-west-1",
        "gs://anonymous@bucket/home",
        "abfs://container@account.dfs.core.windows.net",
    ],
)
def test_what_holds_no_credentials_is_kept(url: str) -> None:
    config = TrainConfig(data=DataConfig(name="events", path=url))
    assert settled(config).data.path == url
