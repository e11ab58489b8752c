"""The loop: a service's days, a challenger from its log, and a gate that tells better from worse."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rec.cycle.steps
from rec.cycle.run import WAITING, Cycle
from rec.cycle.steps import STEPS
from rec.data.tabular import write_side_tables
from rec.pipeline import train
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from tests.rec.cycle.days import DAY_MS, log_day

CONFIG = InstaTokConfig(n_users=150, n_videos=120, days=1.0, seed=5)
DRAWN: Any = {"k": 2, "epsilon": 0.2, "temperature": 1.0, "max_requests": 1}
TRAIN: Any = {
    "data": {"name": "events", "positive_actions": ["watched"]},
    "split": {"kind": "none"},
    "retriever": {"output_dim": 16, "queries": {"min_batches": 5}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {
        "kind": "mmoe",
        "n_candidates": 60,
        "learn_from": "answers",
        "min_positives": 1,
        "tasks": [{"name": "watched", "actions": ["watched"]}],
    },
}
REWARDS = ("--rewards", "watched", "1", "skipped", "-2", "liked", "2", "other", "-0.5")


def day(home: str, number: int, recommender: Recommender | None, *, n_requests: int = 3000) -> None:
    log_day(home, CONFIG, number, recommender, n_requests=n_requests, drawn=DRAWN)


def end_of(number: int) -> str:
    """When all that was asked on a day has been answered."""
    return str(CONFIG.start_ms + (number + 1) * DAY_MS + 600_000)


def cycle(tandem: Any, home: str, number: int, *more: str) -> dict[str, Any]:
    options = ("--attribution-s", "600", "--held-out-days", "1", "--now-ms", end_of(number))
    done = tandem("cycle", "--home", home, *REWARDS, *options, *more, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tandem: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that knows nothing on its first day, and that is trained on that; then it served two days."""
    folder = tmp_path_factory.mktemp("cycle")
    (folder / "train.yaml").write_text(json.dumps(TRAIN), encoding="utf-8")
    home = str(folder / "home")
    write_side_tables(InstaTok(CONFIG).dataset(n_sessions=1), folder / "home" / "events")
    day(home, 0, None, n_requests=400)
    options = ("--config", str(folder / "train.yaml"), "--path", home, "--attribution-s", "600", "--now-ms", end_of(0))
    done = tandem("train", "--home", home, *options, "--json")
    assert done.returncode == 0, done.stderr
    champion = Recommender.load(home)
    day(home, 1, champion)
    day(home, 2, champion)
    yield home


@pytest.mark.slow
def test_a_cycle_reads_trains_judges_and_decides(tandem: Any, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = Recommender.load(home).version
    waiting = cycle(tandem, home, 0)
    assert waiting["status"] == WAITING and waiting["challenger"] is None

    class Killed(BaseException):
        pass

    def killed(_: Cycle) -> dict[str, Any]:
        raise Killed

    with monkeypatch.context() as cut, pytest.raises(Killed):
        cut.setitem(STEPS, "estimate", killed)
        cycle(tandem, home, 2, "--gate.min-ess", "300")
    found = cycle(tandem, home, 2, "--gate.min-ess", "300")
    published = sorted(path.name for path in (Path(home) / "models").iterdir() if path.is_dir() and "-" in path.name)
    assert published == [champion, found["challenger"]], "what was trained before the end came is not trained again"

    steps = found["steps"]
    assert list(steps) == list(STEPS)
    assert steps["read"]["champion"] == champion and steps["read"]["versions"]["requests"] == 3
    assert Recommender.load(home, found["challenger"]).snapshot.at_ms <= steps["read"]["since_ms"]
    read = {f"events/{table}": str(version) for table, version in steps["read"]["versions"].items()}
    assert Registry(Home(home)).show(found["challenger"]).tables.items() >= read.items()
    assert steps["estimate"]["n_requests"] == pytest.approx(3000, abs=60)
    assert steps["estimate"]["reproduced"] == 1
    promoted = found["status"] == "promoted"
    assert promoted == (not found["reasons"])
    assert Recommender.load(home).version == (found["challenger"] if promoted else champion)
    again = cycle(tandem, home, 2, "--gate.min-ess", "300")
    assert again["status"] == WAITING and again["challenger"] is None, "a log decides once"
    for kind in ("html", "markdown"):
        assert found["challenger"] in Path(steps["report"][kind]).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_given_challenger_that_the_log_does_not_vouch_for_is_not_promoted(tandem: Any, home: str) -> None:
    champion = Recommender.load(home).version
    task = {"name": "watched", "actions": ["skipped"]}
    others = {**TRAIN, "data": {**TRAIN["data"], "positive_actions": ["skipped"]}}
    others["ranker"] = {**TRAIN["ranker"], "tasks": [task]}
    file = Path(home).parent / "others.yaml"
    file.write_text(json.dumps(others), encoding="utf-8")
    options = ("--path", home, "--attribution-s", "600", "--now-ms", end_of(1), "--no-promote")
    done = tandem("train", "--home", home, "--config", str(file), *options, "--json")
    assert done.returncode == 0, done.stderr
    other = json.loads(done.stdout)["version"]
    assert Recommender.load(home).version == champion

    # It shows other videos than the log does: no log of 3,000 requests is worth so many of its own.
    found = cycle(tandem, home, 2, "--challenger", other, "--gate.min-ess", "2900")
    assert (found["status"], found["challenger"], found["current"]) == ("refused", other, champion)
    assert any(reason.startswith("effective sample size") for reason in found["reasons"])
    assert Recommender.load(home).version == champion


@pytest.mark.slow
def test_what_is_withdrawn_from_the_champion_does_not_come_back(
    tandem: Any, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a challenger that is trained anew, nor by one that was published before.

    What makes the training doubtful is told also by a cycle that was killed when the model had been published.
    """
    before = Recommender.load(home)
    gone = str(before.item_ids[0])
    added = Path(home).parent / "added.csv"
    added.write_text("item_id,title\nvideo-of-no-table,A video\n", encoding="utf-8")
    done = tandem("models", "update", "--home", home, "--withdraw", gone, "--items", str(added))
    assert done.returncode == 0, done.stderr
    champion = Recommender.load(home).version

    done = tandem("cycle", "--home", home, *REWARDS, "--challenger", before.version, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["field"] == "challenger"
    assert f"tandem models update --version {before.version} --no-promote --withdraw {gone}" in error["message"]

    class Killed(BaseException):
        pass

    def killed_once_it_has_published(*args: Any, **options: Any) -> dict[str, Any]:
        train(*args, **options)
        raise Killed

    with monkeypatch.context() as cut, pytest.raises(Killed):
        cut.setattr(rec.cycle.steps, "train", killed_once_it_has_published)
        cycle(tandem, home, 2, "--anew", "--gate.min-ess", "300")
    published = Registry(Home(home)).versions()
    found = cycle(tandem, home, 2, "--anew", "--gate.min-ess", "300")
    assert Registry(Home(home)).versions() == published and found["challenger"] == published[-1]
    challenger = Recommender.load(home, found["challenger"])
    assert challenger.config.incremental.parent is None and challenger.config.incremental.catalogue == champion
    assert challenger.item_ids[challenger.snapshot.withdrawn].tolist() == [gone]
    warnings = " ".join(found["steps"]["train"]["warnings"])
    assert f"1 items of {champion} are not in the data, and so not in this model: video-of-no-table" in warnings
    for kind in ("html", "markdown"):
        assert "video-of-no-table" in Path(found["steps"]["report"][kind]).read_text(encoding="utf-8")
