"""The process that commits tells its numbers while the tables fail or hang, and its health is red for hangs alone."""

import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

from rec.data.events import EventTables, open_events
from rec.errors import DataError
from serve.claims import Claims
from serve.commit_loop import HUNG_S, CommitLoop
from serve.committer import Committer
from serve.event_log import EventLog
from serve.metrics import SharedMetrics

TIMEOUT_S = 600.0


class Service:
    """A loop, whose clocks stand still, and a log to commit."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.time = 100.0, 1_800_000_000.0
        self.events, self.spool = open_events(str(folder)), folder / "spool"
        self.committer = Committer(self.spool, self.events, clock=lambda: self.clock)
        self.shared = SharedMetrics(self.spool, clock=lambda: self.time)
        self.loop = self.another(self.committer)

    def another(self, committer: Committer) -> CommitLoop:
        claims = Claims(self.spool, 60)
        return CommitLoop(committer, claims, self.shared, 1e-3, clock=lambda: self.clock, now=lambda: self.time)

    def log(self, name: str) -> None:
        log = EventLog(self.spool, self.events, sync_s=1, max_bytes=10**9)
        row = {"request_id": name, "timestamp": 1, "user_id": "u", "policy_version": "v", "arm": "x", "epsilon": 0.1}
        row |= {"temperature": 1.0, "k": 2, "degraded": False, "context": "{}", "history": []}
        log.answered(row, [])
        log.close()

    def told(self, name: str, loop: CommitLoop | None = None) -> float:
        (loop or self.loop).tell()
        return self.read(name)[-1]

    def read(self, name: str) -> list[float]:
        """What a metric is, as another process reads it, by process."""
        reader = SharedMetrics(self.spool, clock=lambda: self.time)
        reader._process = "reader"
        lines = reader.read(reader.own.to_json()).splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith(name + "{")]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


LAG = "tandem_log_commit_timestamp_seconds"


def test_the_lag_grows_while_the_tables_fail(service: Service, monkeypatch: pytest.MonkeyPatch):
    assert service.told(LAG) == 0, "nothing was ever committed, and an alarm sees that"
    assert service.loop.commit()
    done_at = service.time
    assert service.told(LAG) == done_at

    def fails(*_: object) -> int:
        raise DataError("as a test wants it")

    service.log("r1")
    with monkeypatch.context() as patch:
        patch.setattr(EventTables, "append_once", fails)
        for _ in range(3):
            service.time += 100
            assert not service.loop.commit()
            assert service.told(LAG) == done_at
    assert service.loop.commit() and service.told(LAG) == service.time
    assert service.told("tandem_log_records_total") == 1


def test_who_does_not_lead_says_nothing_of_the_tables(service: Service):
    assert service.loop.commit()
    second = Committer(service.spool, service.events)
    loop = service.another(second)
    service.time += 100
    loop.commit()
    assert service.told(LAG, loop) == 0
    second.close()


def test_a_commit_that_hangs_is_told_of_and_turns_health_red(
    service: Service, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    began = threading.Event()
    append = EventTables.append_once

    def hangs(*args: object) -> int:
        began.set()
        assert go_on.wait(TIMEOUT_S)
        return append(*args)  # pyright: ignore[reportArgumentType]

    with pytest.raises(RuntimeError, match="has ended"):
        service.loop.check()
    service.log("r1")
    monkeypatch.setattr(EventTables, "append_once", hangs)
    service.loop.start()
    assert began.wait(TIMEOUT_S)
    service.loop.check()
    service.clock += HUNG_S - 1
    service.loop.check()
    deadline = monotonic() + TIMEOUT_S
    while not service.read(LAG) and monotonic() < deadline:
        sleep(0.01)
    assert service.read(LAG) == [0]
    service.clock += 2
    with pytest.raises(RuntimeError, match="has not got on"):
        service.loop.check()
    go_on.set()
    service.loop.stop(TIMEOUT_S)
    assert service.events.read("requests")["request_id"].to_pylist() == ["r1"]


def test_waiting_and_failing_are_no_hang(service: Service, monkeypatch: pytest.MonkeyPatch):
    def fails(*_: object) -> int:
        raise DataError("as a test wants it")

    monkeypatch.setattr(EventTables, "append_once", fails)
    service.log("r1")
    assert not service.loop.commit()
    assert service.committer.working_since is None


def test_files_that_are_not_ours_stop_no_sweep(service: Service, tmp_path: Path):
    keys = tmp_path / "spool" / "keys"
    for name in ("notes", "0"):
        (keys / name).mkdir(parents=True)
    assert service.loop.commit()
    assert [path.name for path in keys.iterdir()] == ["notes"]
