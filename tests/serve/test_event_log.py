"""The log of a server: what was answered and what was acknowledged is in the tables once, whoever is killed when."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import pytest

import rec.data.events
from rec.data.events import EventTables, open_events
from rec.errors import DataError
from serve.committer import LATE_S, REFUSED, Committer, is_followed
from serve.event_log import Accepted, EventLog, NotShownError, SpoolFullError, UnknownRequestError
from serve.known import KEPT_S, MISSED_S, STALE_S, KnownRequests
from serve.spool import SyncError, segments

NOW_MS = 1_800_000_000_000

# Answers requests and accepts an event on each, and says so, for ever.
SERVER = """
import sys
from pathlib import Path
from rec.data.events import open_events
from serve.event_log import EventLog
from test_event_log import answer, event
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


def answer(request_id: str, items: tuple[str, ...] = ("a", "b")) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    request = {"request_id": request_id, "timestamp": NOW_MS, "user_id": "u1", "policy_version": "v1", "arm": "x"}
    request |= {"epsilon": 0.1, "temperature": 1.0, "k": 2, "degraded": False, "context": "{}", "history": ["h"]}
    shown = {"request_id": request_id, "source": "i2i", "propensity": 1 / 3, "n_eligible": 3}
    return request, [{**shown, "position": position, "item_id": item} for position, item in enumerate(items)]


def event(request_id: str, event_id: str | None = None, item_id: str = "a", action: str = "watched") -> dict[str, Any]:
    row = {"request_id": request_id, "item_id": item_id, "action": action}
    return row | {"event_id": event_id, "timestamp": NOW_MS + 1, "received_at": NOW_MS + 2}


@pytest.fixture
def events(tmp_path: Path) -> EventTables:
    return open_events(str(tmp_path))


def open_log(tmp_path: Path, **options: Any) -> EventLog:
    return EventLog(tmp_path / "spool", open_events(str(tmp_path)), **{"sync_s": 0.01, "max_bytes": 10**9, **options})


def committer(tmp_path: Path) -> Committer:
    return Committer(tmp_path / "spool", open_events(str(tmp_path)))


def column(events: EventTables, table: Any, name: str) -> list[Any]:
    return sorted(events.read(table)[name].to_pylist())


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
    before = set(segments(tmp_path / "spool"))

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("serve.spool.os.fsync", failing)
        with pytest.raises(SyncError):
            logs[0].accept([event("r1", "e1")])
    synced: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr("serve.spool.os.fsync", counted)
    asked = logs[0] if same_process else logs[1]
    assert asked.accept([event("r1", "e1"), event("r1", "e2")]) == Accepted(1, 1)
    holding = [each.path for each in segments(tmp_path / "spool") if b'"e1"' in each.path.read_bytes()]
    (first,) = [path for path in holding if path.stat().st_ino not in synced]
    assert len(holding) == 2 and len(before) == 2
    n_synced = len(synced)
    assert asked.accept([event("r1", "e1")]) == Accepted(0, 1)
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


def test_old_requests_and_events_are_known_from_the_tables(tmp_path: Path):
    first = open_log(tmp_path)
    first.answered(*answer("r1"))
    first.accept([event("r1", "e1")])
    first.close()
    committer(tmp_path).commit()
    for segment in segments(tmp_path / "spool"):
        segment.path.unlink()
    log = open_log(tmp_path)
    assert log.accept([event("r1", "e1"), event("r1", "e2")]) == Accepted(1, 1)
    with pytest.raises(NotShownError):
        log.accept([event("r1", "e3", "c")])
    with pytest.raises(UnknownRequestError):
        log.accept([event("r2", "e1")])


def test_whoever_was_away_asks_the_tables_for_what_it_missed(tmp_path: Path, events: EventTables):
    """An event accepted elsewhere, whose segment came and went while this process stood still."""
    clock = [0.0]
    known = KnownRequests(tmp_path / "spool", events, clock=lambda: clock[0])
    here, elsewhere = open_log(tmp_path), open_log(tmp_path)
    assert known.find(["r1"]) == {}
    here.answered(*answer("r1"))
    assert set(known.find(["r1"])["r1"].events) == set()
    elsewhere.accept([event("r1", "e1")])
    elsewhere.close()
    moving = committer(tmp_path)
    moving.commit()
    (segment,) = [each for each in segments(tmp_path / "spool") if b"e1" in each.path.read_bytes()]
    segment.path.unlink()
    clock[0] += STALE_S + 1
    assert known.in_memory(["r1"]) == {}
    assert set(known.find(["r1"])["r1"].events) == {"e1"}


@pytest.mark.parametrize("slow", ["impressions", "feedback"])
def test_slow_tables_give_an_answer_or_an_error_but_never_an_unknown_request(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch, slow: str
):
    """What others accepted while the events were read may be in the spool no more; while the rest was, it still is."""
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    log.accept([event("r1", "e1")])
    log.close()
    committer(tmp_path).commit()
    clock, read = [0.0], EventTables.read
    known = KnownRequests(tmp_path / "spool", events, clock=lambda: clock[0])

    def read_slowly(self: EventTables, table: Any, **options: Any) -> Any:
        clock[0] += STALE_S + 1 if table == slow else 0
        return read(self, table, **options)

    monkeypatch.setattr(EventTables, "read", read_slowly)
    if slow == "feedback":
        with pytest.raises(DataError, match="tables took more than"):
            known.find(["r1"])
    else:
        assert set(known.find(["r1"])["r1"].events) == {"e1"}


def test_who_asks_again_for_a_request_that_never_was_costs_the_tables_nothing(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    read, clock = EventTables.read, [0.0]

    def counted(self: EventTables, table: Any, **options: Any) -> Any:
        asked.append(table)
        return read(self, table, **options)

    monkeypatch.setattr(EventTables, "read", counted)
    known = KnownRequests(tmp_path / "spool", events, clock=lambda: clock[0], capacity=5)
    for _ in range(3):
        assert known.find(["r1", "r2"]) == {}
    assert len(asked) == 3
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    assert set(known.find(["r1", "r2"])) == {"r1"}, "answered since"
    assert len(asked) == 3
    clock[0] += MISSED_S + 1
    assert known.unknown(["r2"]) == ["r2"]
    for number in range(20):
        known.find([f"x{number}"])
    assert len(known.unknown([f"x{number}" for number in range(20)])) == 15, "it remembers the latest alone"


def test_memory_is_bounded_but_for_what_is_in_the_spool_alone(tmp_path: Path, events: EventTables):
    log = open_log(tmp_path)
    ids = [f"r{number}" for number in range(30)]
    for request_id in ids:
        log.answered(*answer(request_id))
    known = KnownRequests(tmp_path / "spool", events, capacity=10)
    assert set(known.find(ids)) == set(ids)
    log.close()
    committer(tmp_path).commit()
    for segment in segments(tmp_path / "spool"):
        segment.path.unlink()
    known.find([])
    assert len(known._known) <= 10
    assert all(set(known.find([each])) == {each} for each in ids)


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


def test_a_record_that_the_tables_refuse_keeps_no_other_out(tmp_path: Path, events: EventTables):
    log, moving = open_log(tmp_path), committer(tmp_path)
    log.answered(*answer("r1"))
    request, shown = answer("r2")
    log.answered(request, [{**row, "propensity": 0.0} for row in shown])
    log.answered(*answer("r3"))
    moving.commit()
    assert moving.n_refused == 1
    assert json.loads((tmp_path / "spool" / REFUSED).read_text())["impressions"][0]["request_id"] == "r2"
    assert column(events, "requests", "request_id") == ["r1", "r2", "r3"]
    assert set(column(events, "impressions", "request_id")) == {"r1", "r3"}


def test_one_committer_leads_and_its_end_lets_another(tmp_path: Path, events: EventTables):
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    first, second = committer(tmp_path), committer(tmp_path)
    assert first.leads() and not second.leads()
    assert second.commit() == 0
    first.close()
    assert second.commit() == 1


def test_the_tables_follow_while_one_takes_in_what_there_is(tmp_path: Path):
    folder, log = tmp_path / "spool", open_log(tmp_path)
    assert not log.is_followed()
    follower = committer(tmp_path)
    follower.commit()
    assert log.is_followed()
    later = time() + LATE_S + 1
    assert not is_followed(folder, clock=lambda: later), "it lives, and does not get on"
    follower.close()
    assert not log.is_followed(), "it was killed, and no other is there yet"


def test_segments_go_when_they_are_old_left_and_in_the_tables(tmp_path: Path, events: EventTables):
    clock = [0.0]
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    (left,) = segments(tmp_path / "spool")
    living = open_log(tmp_path)
    living.answered(*answer("r2"))
    (active,) = (segment for segment in segments(tmp_path / "spool") if segment != left)
    log.close()
    both = [segment.path for segment in sorted([left, active])]
    moving = Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    os.utime(left.path, (0, 0))

    def swept_at(seconds: float) -> list[Path]:
        clock[0] = seconds
        moving.sweep()
        return [segment.path for segment in segments(tmp_path / "spool")]

    assert swept_at(0) == both
    assert swept_at(KEPT_S + 1) == both, "not in the tables"
    moving.commit()
    again = Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    moving.close()
    moving = again
    moving.commit()
    assert swept_at(1_000) == both, "this one has only just seen it, whatever the time of day says"
    assert swept_at(1_000 + KEPT_S - 1) == both, "not old"
    assert swept_at(1_000 + KEPT_S + 1) == [active.path]


def test_what_is_no_whole_record_is_passed_over_and_its_segment_kept(tmp_path: Path, events: EventTables):
    """Cut off, changed, of a changed length, which hides whatever is after it; and never written at all."""
    for number in range(4):
        log = open_log(tmp_path)
        log.answered(*answer(f"r{number}"))
        log.answered(*answer(f"s{number}"))
        log.close()
    torn, damaged, lengthened, grown = (segment.path for segment in segments(tmp_path / "spool"))
    os.truncate(torn, torn.stat().st_size - 3)
    for path, place, bit in ((damaged, -3, 1), (lengthened, 2, 1 << 6)):
        content = bytearray(path.read_bytes())
        content[place] ^= bit
        path.write_bytes(content)
    os.truncate(grown, grown.stat().st_size + 100)
    (tmp_path / "spool" / "notes.spool").write_text("of somebody else")
    clock = [0.0]
    moving = Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    moving.commit()
    moving.sweep()
    clock[0] += KEPT_S + 1
    moving.sweep()
    assert column(events, "requests", "request_id") == ["r0", "r1", "r3", "s3"]
    assert segments(tmp_path / "spool") == []
    kept = {path.with_suffix("").name for path in (tmp_path / "spool").glob("*.damaged")}
    assert kept == {path.with_suffix("").name for path in (torn, damaged, lengthened)}


def failing_write(*, at: int, after: bool) -> Callable[..., None]:
    """Writes tables, but the at-th: that fails before anything happens, or after all of it has."""
    write, calls = rec.data.events.write_deltalake, itertools.count()

    def fails(*args: Any, **options: Any) -> None:
        fails_now = next(calls) == at
        if not fails_now or after:
            write(*args, **options)
        if fails_now:
            raise OSError("as a test wants it")

    return fails


def test_a_committer_that_fails_between_the_tables_doubles_nothing(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch
):
    """At each of its commits, before and after."""
    log = open_log(tmp_path)
    write = rec.data.events.write_deltalake
    for failing in range(6):
        request_id = f"r{failing}"
        log.answered(*answer(request_id))
        log.accept([event(request_id, "e")])
        fails = failing_write(at=failing // 2, after=failing % 2 == 1)
        monkeypatch.setattr(rec.data.events, "write_deltalake", fails)
        moving = committer(tmp_path)
        with pytest.raises(DataError):
            moving.commit()
        moving.close()
        monkeypatch.setattr(rec.data.events, "write_deltalake", write)
        moving = committer(tmp_path)
        moving.commit()
        moving.close()
    expected = [f"r{number}" for number in range(6)]
    assert column(events, "requests", "request_id") == expected
    assert column(events, "impressions", "request_id") == [each for each in expected for _ in range(2)]
    assert column(events, "feedback", "request_id") == expected


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
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
