"""A cycle ends the same wherever it was killed, and one that failed does not stop the next."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rec.cli.cycle import CycleOptions, run_cycle_command
from rec.config import CycleConfig
from rec.cycle.journal import JOURNAL_FILE, Journal, latest_journal, read_journal
from rec.cycle.lease import Lease, LeaseError
from rec.cycle.run import LEASE, Cycle, Step, run_cycle, run_every
from rec.errors import ConfigError, DataError
from rec.storage import Home

ROOT = Path(__file__).parents[3]
CONFIG = CycleConfig(rewards={"watched": 1.0}, now_ms=1000)


def promoting(promoted: bool = True) -> dict[str, Any]:
    """Steps that find numbers, each from what the one before found."""
    return {
        "read": lambda cycle: {"n": 1},
        "train": lambda cycle: {"n": cycle.found("read")["n"] + 1},
        "promote": lambda cycle: {"n": cycle.found("train")["n"] + 1, "promoted": promoted},
    }


def found(journal: Journal) -> list[int]:
    return [step["n"] for step in journal.steps.values()]


def test_every_step_reads_what_the_earlier_ones_found(tmp_path: Path) -> None:
    journal = run_cycle(str(tmp_path), CONFIG, promoting())
    assert found(journal) == [1, 2, 3] and journal.status == "promoted"
    assert latest_journal(Home(tmp_path)) == journal
    assert run_cycle(str(tmp_path), CONFIG, promoting(False)).status == "refused"


def test_a_time_that_nobody_gave_is_that_of_the_beginning_also_later(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def killed(cycle: Cycle) -> dict[str, Any]:
        raise Killed

    with pytest.raises(Killed):
        run_cycle(str(tmp_path), CycleConfig(), {**promoting(), "train": killed})
    begun = latest_journal(Home(tmp_path))
    assert begun is not None and begun.status == "open" and list(begun.steps) == ["read"]
    again = run_cycle(str(tmp_path), CONFIG, promoting())
    assert again.cycle == begun.cycle and again.config == begun.config != CONFIG


@pytest.mark.parametrize("step", ["read", "train", "promote"])
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_at_any_step_it_ends_the_same(tmp_path: Path, step: str, after: bool) -> None:
    class Killed(BaseException):
        pass

    def cut_off(cycle: Cycle) -> dict[str, Any]:
        if after:
            whole[step](cycle)
        raise Killed

    whole = promoting()
    with pytest.raises(Killed):
        run_cycle(str(tmp_path), CONFIG, {**whole, step: cut_off})
    cut = latest_journal(Home(tmp_path))
    assert cut is not None and step not in cut.steps
    journal = run_cycle(str(tmp_path), CONFIG, whole)
    assert journal.cycle == cut.cycle and found(journal) == [1, 2, 3] and journal.status == "promoted"


def test_what_there_is_to_wait_for_ends_a_cycle(tmp_path: Path) -> None:
    steps = {**promoting(), "read": lambda cycle: {"waiting": "for requests"}}
    journal = run_cycle(str(tmp_path), CONFIG, steps)
    assert journal.status == "waiting" and list(journal.steps) == ["read"]
    assert run_cycle(str(tmp_path), CONFIG, promoting()).cycle > journal.cycle


def test_a_step_that_raises_ends_its_cycle_and_the_next_begins_anew(tmp_path: Path) -> None:
    def failing(cycle: Cycle) -> dict[str, Any]:
        raise DataError("no log")

    with pytest.raises(DataError):
        run_cycle(str(tmp_path), CONFIG, {**promoting(), "train": failing})
    failed = latest_journal(Home(tmp_path))
    assert failed is not None and (failed.status, failed.error) == ("failed", "train: no log")
    assert found(run_cycle(str(tmp_path), CONFIG, promoting())) == [1, 2, 3]


def test_what_was_promoted_stays_so_when_its_report_fails(tmp_path: Path) -> None:
    def failing(cycle: Cycle) -> dict[str, Any]:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_cycle(str(tmp_path), CONFIG, {**promoting(), "report": failing})
    ended = latest_journal(Home(tmp_path))
    assert ended is not None and (ended.status, ended.error) == ("promoted", "report: no space left")
    assert run_cycle(str(tmp_path), CONFIG, promoting()).cycle > ended.cycle


def test_a_step_that_finds_what_is_no_number_has_failed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no finite number: n\.1\.ess nan"):
        run_cycle(
            str(tmp_path), CONFIG, {**promoting(), "train": lambda cycle: {"n": [{"ess": 1.0}, {"ess": math.nan}]}}
        )
    failed = latest_journal(Home(tmp_path))
    assert failed is not None and failed.status == "failed" and (failed.error or "").startswith("train: ")
    assert found(run_cycle(str(tmp_path), CONFIG, promoting())) == [1, 2, 3]


def test_a_step_knows_whether_one_that_was_killed_had_begun_it(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def noting(name: str) -> Step:
        def step(cycle: Cycle) -> dict[str, Any]:
            again.append((name, cycle.again))
            if name == "train" and not cycle.again:
                raise Killed
            return promoting()[name](cycle)

        return step

    again: list[tuple[str, bool]] = []
    steps = {name: noting(name) for name in promoting()}
    with pytest.raises(Killed):
        run_cycle(str(tmp_path), CONFIG, steps)
    run_cycle(str(tmp_path), CONFIG, steps)
    assert again == [("read", False), ("train", False), ("train", True), ("promote", False)]


def test_two_do_not_cycle_at_once(tmp_path: Path) -> None:
    with Lease(Home(tmp_path), LEASE, seconds=60), pytest.raises(LeaseError):
        run_cycle(str(tmp_path), CONFIG, promoting())
    assert latest_journal(Home(tmp_path)) is None


@pytest.mark.parametrize("fails", [False, True])
def test_who_lost_the_lease_during_a_step_writes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def hold(self: Lease) -> None:
        if started:
            raise LeaseError("another has taken it")

    def step(cycle: Cycle) -> dict[str, Any]:
        started.append(1)
        if fails:
            raise DataError("the log is gone")
        return {"n": 1}

    started: list[int] = []
    monkeypatch.setattr(Lease, "hold", hold)
    with pytest.raises(DataError if fails else LeaseError):
        run_cycle(str(tmp_path), CONFIG, {**promoting(), "read": step})
    journal = latest_journal(Home(tmp_path))
    assert journal is not None and not journal.steps and journal.status == "open"


def test_cycles_go_on_after_one_that_failed() -> None:
    class Enough(BaseException):
        pass

    calls: list[float] = []

    def cycle() -> None:
        calls.append(0.0)
        raise DataError("no log")

    def sleep(seconds: float) -> None:
        assert seconds >= 0
        if len(calls) == 3:
            raise Enough

    with pytest.raises(Enough):
        run_every(3600, cycle, sleep=sleep)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"rewards": {}}, "rewards"), ({"now_ms": 1_700_000_000}, "now_ms"), ({"home": "nowhere"}, "home")],
)
def test_what_cannot_be_asked_for_waits_for_no_next_cycle_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], field: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    options = {"home": "home", "rewards": {"watched": 1.0}, "every": "24h", **wrong}
    with pytest.raises(ConfigError) as refused:
        run_cycle_command(CycleOptions.model_validate(options))
    assert refused.value.field == field
    assert [path.name for path in tmp_path.rglob("*")] == ["home"]


def test_a_cycle_that_goes_on_says_that_it_was_asked_for_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Journal.begin(CONFIG).write(Home(tmp_path))
    run_cycle(str(tmp_path), CONFIG.model_copy(update={"now_ms": 2000}), promoting())
    assert "other options" not in capsys.readouterr().err
    Journal.begin(CONFIG).write(Home(tmp_path))
    run_cycle(str(tmp_path), CONFIG.model_copy(update={"anew": True}), promoting())
    assert "begun with other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed", [None, {"cycle": "../../x"}, {"steps": None}, {"steps": {"read": 1}}, {"config": 1}]
)
def test_a_damaged_journal_is_named(tmp_path: Path, changed: dict[str, Any] | None) -> None:
    home = Home(tmp_path)
    journal = run_cycle(str(tmp_path), CONFIG, promoting())
    content = home.read(journal.file(JOURNAL_FILE))
    assert content is not None
    home.write(
        journal.file(JOURNAL_FILE), b"{" if changed is None else json.dumps({**json.loads(content), **changed}).encode()
    )
    with pytest.raises(DataError, match="no journal of a cycle") as caught:
        read_journal(home, journal.cycle)
    assert caught.value.file == home.show(journal.file(JOURNAL_FILE))


@pytest.mark.slow
def test_killed_at_any_write_it_ends_the_same(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("cycle_killed.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 10
