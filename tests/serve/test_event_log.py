"""The log of a server: what was answered and what was acknowledged is in the tables once, whoever is killed when."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import pytest

from rec.data.events import EventTables
from serve.event_log import Accepted, EventLog, NotShownError, SpoolFullError, UnknownRequestError
from serve.spool import SyncError, segments
from tests.serve.logs import NOW_MS, answer, column, committer, event, open_log

# Answers requests and accepts an event on each, and says so, for ever.
SERVER = """
import sys
from pathlib import Path
from rec.data.events import open_events
from serve.event_log import EventLog
from tests.serve.logs import answer, event
log = EventLog(Path(sys.argv[1]) / "spool", open_events(sys.argv[1]), sync_s=1, max_bytes=10**9)
number = 0
while True:
    request_id = f"{sys.argv[2]}-{number:05d}"
    log.answered(*answer(request_id))
    print("answered", request_id, flush=True)
    assert log.accept([event(request_id, "only")]).accepted == 1
    print("accepted", request_id, flush=True)
    number += 1
"""

COMMITTER = """
import sys
from pathlib import Path
from rec.data.events import open_events
from serve.committer import Committer
committer = Committer(Path(sys.argv[1]) / "spool", open_events(sys.argv[1]))
while True:
    committer.commit()
"""


def test_what_is_answered_and_accepted_is_in_the_tables(tmp_path: Path, events: EventTables):
    log, moving = open_log(tmp_path), committer(tmp_path)
    log.answered(*answer("r1"))
    assert log.accept([event("r1", "e1"), event("r1", "e2", "b", "liked")]) == Accepted(2, 0)
    assert moving.commit() == 2 and moving.commit() == 0
    request, shown = answer("r1")
    assert events.read("requests").select(list(request)).to_pylist() == [request]
    assert events.read("impressions").select(list(shown[0])).to_pylist() == shown
    assert column(events, "feedback", "event_id") == ["e1", "e2"]
    log.answered(*answer("r2"))
    log.close()
    moving.close()
    assert committer(tmp_path).commit() == 3, "it cannot know, and reads all; the tables know"
    assert column(events, "requests", "request_id") == ["r1", "r2"]
    assert column(events, "feedback", "event_id") == ["e1", "e2"]


def test_feedback_is_accepted_whole_or_not_at_all(tmp_path: Path, events: EventTables):
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    with pytest.raises(UnknownRequestError, match="r9") as unknown:
        log.accept([event("r1", "e1"), event("r9", "e2")])
    with pytest.raises(NotShownError, match="c") as not_shown:
        log.accept([event("r1", "e1"), event("r1", "e3"), event("r1", "e2", "c")])
    assert (unknown.value.place, not_shown.value.place) == (1, 2)
    committer(tmp_path).commit()
    assert column(events, "feedback", "event_id") == []


def test_an_event_counts_once_whichever_process_gets_it(tmp_path: Path, events: EventTables):
    logs = [open_log(tmp_path) for _ in range(3)]
    logs[0].answered(*answer("r1"))
    logs[0].answered(*answer("r2"))
    assert logs[1].accept([event("r1", "e1"), event("r1", "e1"), event("r2", "e1")]) == Accepted(2, 1)
    for log in logs:
        assert log.accept([event("r1", "e1", action="liked")]) == Accepted(0, 1)
    assert logs[2].accept([event("r1"), event("r1")]) == Accepted(2, 0), "without ids they are two"
    committer(tmp_path).commit()
    assert logs[2].accept([event("r2", "e1")]) == Accepted(0, 1)
    found = zip(column(events, "feedback", "request_id"), column(events, "feedback", "event_id"), strict=True)
    assert Counter(found).most_common(1)[0][1] == 1
    assert len(column(events, "feedback", "event_id")) == 4


@pytest.mark.parametrize("first_is_lost", [False, True])
@pytest.mark.parametrize("same_process", [False, True])
def test_what_is_acknowledged_after_a_disk_refused_it_is_handed_to_the_disk_again(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch, first_is_lost: bool, same_process: bool
):
    """Another sync of the same file may succeed for nothing, and power may be lost then: only another record counts."""
    logs = [open_log(tmp_path, sync_s=60) for _ in range(2)]
    logs[0].answered(*answer("r1"))
    logs[1].accept([event("r1", "e0")])
    first_said = event("r1", "e1") | {"value": 0.5}
    then_said = event("r1", "e1", "b", "liked") | {"value": 2.0, "timestamp": NOW_MS + 7, "received_at": NOW_MS + 8}
    before = set(segments(tmp_path / "spool"))

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("serve.spool.os.fsync", failing)
        with pytest.raises(SyncError):
            logs[0].accept([first_said])
    synced: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr("serve.spool.os.fsync", counted)
    asked = logs[0] if same_process else logs[1]
    assert asked.accept([then_said, event("r1", "e2")]) == Accepted(1, 1)
    holding = [each.path for each in segments(tmp_path / "spool") if b'"e1"' in each.path.read_bytes()]
    (first,) = [path for path in holding if path.stat().st_ino not in synced]
    assert len(holding) == 2 and len(before) == 2
    n_synced = len(synced)
    assert asked.accept([then_said]) == Accepted(0, 1)
    assert len(synced) == n_synced, "it knows that the disk has it"
    if first_is_lost:
        content = first.read_bytes()
        place = content.index(b'{"feedback"') - 8
        first.write_bytes(content[:place] + bytes(len(content) - place))
    moving = committer(tmp_path)
    moving.commit()
    assert Counter(column(events, "feedback", "event_id")) == {"e0": 1, "e1": 1, "e2": 1}
    moving.close()
    committer(tmp_path).commit()
    assert Counter(column(events, "feedback", "event_id")) == {"e0": 1, "e1": 1, "e2": 1}
    (row,) = [row for row in events.read("feedback").to_pylist() if row["event_id"] == "e1"]
    assert row == first_said, "all that it said when it was accepted"


def test_an_event_that_many_send_at_once_is_accepted_once(tmp_path: Path):
    logs = [open_log(tmp_path) for _ in range(4)]
    logs[0].answered(*answer("r1"))
    results: list[Accepted] = []

    def send(log: EventLog) -> None:
        for number in range(10):
            results.append(log.accept([event("r1", f"e{number}")]))

    threads = [threading.Thread(target=send, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.accepted for result in results) == 10
    assert sum(result.duplicates for result in results) == 30


def test_a_full_spool_takes_nothing(tmp_path: Path):
    log = open_log(tmp_path, max_bytes=2_000)
    with pytest.raises(SpoolFullError, match="2,000"):
        for number in range(100):
            log.answered(*answer(f"r{number}"))
            sleep(0.05)
    with pytest.raises(SpoolFullError):
        log.accept([event("r0", "e1")])


def test_an_answer_recorded_again_is_there_once(tmp_path: Path, events: EventTables):
    log, other = open_log(tmp_path), open_log(tmp_path)
    log.answered(*answer("r1"))
    other.answered_again(*answer("r1"))
    other.answered_again(*answer("r2"))
    committer(tmp_path).commit()
    other.answered_again(*answer("r1"))
    committer(tmp_path).commit()
    assert sorted(column(events, "requests", "request_id")) == ["r1", "r2"]


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.slow
def test_killing_servers_and_committers_loses_and_doubles_nothing(tmp_path: Path, events: EventTables):
    rng = random.Random(0)
    (tmp_path / "spool").mkdir()
    told: list[str] = []
    moving = started(COMMITTER, str(tmp_path))
    for generation in range(2):
        server = started(SERVER, str(tmp_path), f"r{generation}")
        assert server.stdout is not None
        told += [server.stdout.readline() for _ in range(rng.randrange(5, 40))]
        moving.send_signal(signal.SIGKILL)
        moving.wait()
        moving = started(COMMITTER, str(tmp_path))
        told += [server.stdout.readline() for _ in range(rng.randrange(5, 40))]
        server.send_signal(signal.SIGKILL)
        told += [line for line in server.stdout if line.endswith("\n")]
        server.wait()
    moving.send_signal(signal.SIGKILL)
    moving.wait()
    last = committer(tmp_path)
    deadline = monotonic() + 10
    while not last.leads() and monotonic() < deadline:
        sleep(0.01)
    last.commit()
    answered = {line.split()[1] for line in told if line.startswith("answered")}
    accepted = {line.split()[1] for line in told if line.startswith("accepted")}
    logged, acknowledged = (Counter(column(events, table, "request_id")) for table in ("requests", "feedback"))
    assert answered <= set(logged) and set(logged.values()) == {1}
    assert accepted <= set(acknowledged) and set(acknowledged.values()) == {1}
    assert set(Counter(column(events, "impressions", "request_id")).values()) == {2}
    assert len(accepted) > 20
