"""Every kind of ranker from the command line, on a log of slates whose answers depend on the position."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def home(tandem: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with a log."""
    folder = str(tmp_path_factory.mktemp("rankers"))
    world = ("--kind", "events", "--n-users", "40", "--n-videos", "100", "--n-sessions", "300")
    assert tandem("data", "generate", "--out", folder, *world).returncode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "mmoe", "ple"])
def test_a_pointwise_ranker_serves_and_its_probabilities_are_judged(
    tandem: Any, small_config: Path, home: str, kind: str
) -> None:
    logged = ("--data", "events", "--path", home, "--home", home, "--config", str(small_config))
    done = tandem("train", *logged, "--ranker.kind", kind, "--ranker.position-bias", "--json")
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)["version"]
    found = tandem("recommend", "--user-id", "user-3", "--home", home, "--version", version, "--json")
    assert len(json.loads(found.stdout)["items"]) == 10
    judged = tandem("evaluate", "--home", home, "--version", version, "--baselines.names", "popularity", "--json")
    assert judged.returncode == 0, judged.stderr
    calibration = json.loads(judged.stdout)["calibration"]
    assert calibration["n"] == sum(row["n"] for row in calibration["bins"]) > 0
    # On a log so small it may be far off; it is as far off as its bins say.
    off = sum(row["n"] * abs(row["observed"] - row["predicted"]) for row in calibration["bins"])
    assert calibration["expected_error"] == pytest.approx(off / calibration["n"])
    assert all(0 < row["predicted"] < 1 for row in calibration["bins"])
    told = tandem("evaluate", "--home", home, "--version", version, "--baselines.names", "popularity")
    assert "calibration of the ranker: expected error" in told.stdout


@pytest.mark.slow
def test_positions_are_refused_where_the_ranker_cannot_take_them(tandem: Any, small_config: Path, home: str) -> None:
    logged = ("--data", "events", "--path", home, "--home", home, "--config", str(small_config))
    refused = tandem("train", *logged, "--ranker.position-bias")
    assert refused.returncode == 2 and "position_bias is for pointwise models" in refused.stderr
