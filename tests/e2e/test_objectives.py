"""Every objective from the command line, from a service's own log to a bundle that answers."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from rec.config import LikesObjective, LoggedObjective


@pytest.fixture(scope="module")
def home(tandem: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with a log."""
    folder = str(tmp_path_factory.mktemp("objectives"))
    world = ("--kind", "events", "--n-users", "40", "--n-videos", "100", "--n-sessions", "300")
    assert tandem("data", "generate", "--out", folder, *world).returncode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("objective", (*get_args(LikesObjective), *get_args(LoggedObjective)))
def test_an_objective_trains_a_bundle_that_answers(tandem: Any, small_config: Path, home: str, objective: str) -> None:
    logged = ("--data", "events", "--path", home, "--home", home, "--config", str(small_config))
    done = tandem("train", *logged, "--objective", objective, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["objective"] == objective
    run = Path(answer["run_dir"])
    fits = {folder.name for folder in run.iterdir() if folder.is_dir() and folder.name.startswith("retriever")}
    expected = {f"retriever-{period}" for period in range(3)}
    if objective == "dr":
        expected |= {f"{fit}-rewards-{fold}" for fit in expected for fold in range(2)}
    if objective == "two_stage_ips":
        expected |= {f"retriever-{period}-through-ranker" for period in (1, 2)}
        assert all(f"{fit}: the ranker scores" in done.stderr for fit in expected if fit.endswith("ranker"))
    assert fits == expected

    epochs = [json.loads(line) for line in (run / "retriever-1" / "epochs.jsonl").read_text().splitlines()]
    assert len(epochs) == answer["epochs"]
    if objective == "regression":
        assert "explained" in epochs[0] and answer["warnings"] == []
    elif objective in get_args(LoggedObjective):
        assert all(epoch["snips_low"] < epoch["snips"] for epoch in epochs)
        chosen = max(epochs, key=lambda epoch: epoch["snips_low"])
        assert answer["best_epoch"] == chosen["epoch"]
        said = [text for text in answer["warnings"] if text.startswith("retriever-1: ")]
        assert len(said) == (chosen["ess"] < 100)
    found = tandem("recommend", "--user-id", "user-3", "--home", home, "--version", answer["version"], "--json")
    assert len(json.loads(found.stdout)["items"]) == 10


@pytest.mark.slow
def test_an_endless_log_trains_by_streaming_frequencies_and_hard_negatives(
    tandem: Any, small_config: Path, home: str
) -> None:
    logged = ("--data", "events", "--path", home, "--home", home, "--config", str(small_config))
    streaming = ("--retriever.frequencies.kind", "streaming", "--retriever.frequencies.alpha", "0.05")
    hard = ("--retriever.hard-negatives.per-query", "4", "--retriever.hard-negatives.pool", "20")
    done = tandem("train", *logged, *streaming, *hard, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    (checkpoint,) = (Path(answer["run_dir"]) / "retriever-1" / "checkpoints").iterdir()
    assert (checkpoint / "task.safetensors").exists()
    found = tandem("recommend", "--user-id", "user-3", "--home", home, "--version", answer["version"], "--json")
    assert len(json.loads(found.stdout)["items"]) == 10
    refused = tandem("train", *logged, *streaming, "--objective", "ips", "--json")
    assert refused.returncode != 0 and "frequencies.kind" in refused.stdout + refused.stderr
