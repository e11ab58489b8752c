"""Training that goes on from a published model, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

# Most of the generated log lies before it.
YESTERDAY_MS = "1769400000000"


@pytest.fixture(scope="module")
def home(tandem: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with a log."""
    folder = str(tmp_path_factory.mktemp("incremental"))
    world = ("--kind", "events", "--n-users", "40", "--n-videos", "100", "--n-sessions", "300")
    assert tandem("data", "generate", "--out", folder, *world).returncode == 0
    return folder


@pytest.fixture(scope="module")
def logged(home: str, small_config: Path) -> tuple[str, ...]:
    """What to train on, holding nothing back."""
    data = ("--data", "events", "--path", home, "--home", home, "--split.kind", "none")
    return ("train", *data, "--config", str(small_config), "--json")


@pytest.fixture(scope="module")
def parent(tandem: Any, logged: tuple[str, ...]) -> dict[str, Any]:
    """What was said of the model of yesterday."""
    done = tandem(*logged, "--now-ms", YESTERDAY_MS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _manifest(home: str, version: str) -> dict[str, Any]:
    return json.loads((Path(home) / "models" / version / "manifest.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "workers"),
    [("mixed_negative", 0), ("ips", 0), ("dr", 0), ("two_stage_ips", 0), ("mixed_negative", 2)],
)
def test_training_goes_on_from_the_model_that_serves(
    tandem: Any, home: str, logged: tuple[str, ...], parent: dict[str, Any], objective: str, workers: int
) -> None:
    assert tandem("models", "promote", parent["version"], "--home", home).returncode == 0
    more = (
        "--objective",
        objective,
        "--workers",
        str(workers),
        "--incremental.replay",
        "0.2",
        "--attribution-s",
        "3600",
    )
    done = tandem(*logged, *more, "--from", "CURRENT", "--incremental.expire-days", "3")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["parent"]["version"] == parent["version"]
    changes = answer["parent"]["item_id"]
    assert changes["kept"] > 0 and changes["expired"] > 0

    before, after = _manifest(home, parent["version"]), _manifest(home, answer["version"])
    assert before["parent"] is None and after["parent"] == parent["version"]
    assert after["config"]["incremental"]["parent"] == parent["version"]
    assert before["trained_until_ms"] == after["trained_from_ms"] < after["trained_until_ms"]
    fits = {folder.name for folder in Path(answer["run_dir"]).glob("retriever*")}
    rewards = {f"retriever-new-rewards-{fold}" for fold in range(2)} if objective == "dr" else set()
    assert fits == {"retriever-new"} | rewards

    found = tandem("recommend", "--user-id", "user-3", "--home", home, "--json")
    assert json.loads(found.stdout)["version"] == answer["version"]
    assert len(json.loads(found.stdout)["items"]) == 10

    again = tandem(*logged, *more, "--from", "CURRENT")
    nothing = json.loads(again.stdout)
    assert again.returncode == 0 and (nothing["trained"], nothing["version"]) == (False, answer["version"])
    assert "nothing new to learn from" in nothing["reason"]


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_from_its_own_parent(
    tandem: Any, home: str, logged: tuple[str, ...], parent: dict[str, Any]
) -> None:
    onwards = (*logged, "--from", parent["version"], "--now-ms", "1769900000000")
    first = json.loads(tandem(*onwards).stdout)
    run = Path(first["run_dir"])
    epochs = (run / "retriever-new" / "epochs.jsonl").read_text(encoding="utf-8")
    again = json.loads(tandem(*onwards, "--resume", run.name).stdout)
    assert again["parent"] == first["parent"] and again["valid"] == first["valid"]
    assert (run / "retriever-new" / "epochs.jsonl").read_text(encoding="utf-8") == epochs, "no epoch was done again"
    files = [_manifest(home, answer["version"])["files"] for answer in (first, again)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_towers_of_another_size_are_refused(tandem: Any, logged: tuple[str, ...], parent: dict[str, Any]) -> None:
    refused = tandem(*logged, "--from", parent["version"], "--retriever.output-dim", "8")
    assert refused.returncode == 2
    error = json.loads(refused.stdout)["error"]
    assert error["field"] == "retriever.output_dim" and "16" in error["message"] and "8" in error["message"]
    missing = tandem(*logged, "--from", "20200101T000000Z-00000000")
    assert missing.returncode == 2 and "20200101T000000Z-00000000" in json.loads(missing.stdout)["error"]["file"]
