"""What is known of requests: from the spool and from the tables, whatever is read when."""

from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from rec.data.events import EventTables
from rec.errors import DataError
from serve.committer import Committer
from serve.event_log import Accepted, NotShownError, UnknownRequestError
from serve.known import KEPT_S, MISSED_S, STALE_S, KnownRequests
from serve.logged import answer_record
from serve.spool import SpoolWriter, segments
from tests.serve.logs import answer, column, committer, event, open_log

TIMEOUT_S = 60.0


def test_who_took_no_feedback_for_long_knows_what_it_has_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tables hang, and nobody has asked for a request from the start, or for longer than is remembered."""
    clock, read_at = [0.0], list[float]()
    read_spool = KnownRequests._read_spool

    def told(self: KnownRequests) -> None:
        read_spool(self)
        read_at.append(clock[0])

    def fails(*_: object, **__: object) -> None:
        raise DataError("as a test wants it")

    monkeypatch.setattr(KnownRequests, "_read_spool", told)
    monkeypatch.setattr(EventTables, "read", fails)
    log = open_log(tmp_path)
    log._known._clock = lambda: clock[0]
    log.answered(*answer("r1"))
    deadline = monotonic() + TIMEOUT_S
    for _ in range(3):
        clock[0] += STALE_S - 1
        while clock[0] not in read_at:
            assert monotonic() < deadline, "nobody reads the spool"
            sleep(0.01)
    assert log.accept([event("r1", "e1")]) == Accepted(1, 0)
    log.close()


@pytest.mark.parametrize("record", [b'{"requests": [{}], "impressions": []}', b'{"feedback": [1]}', b"[]", b"no JSON"])
def test_a_record_of_another_kind_hides_no_other(tmp_path: Path, events: EventTables, record: bytes):
    spool = SpoolWriter(tmp_path / "spool")
    spool.append(record)
    spool.append(answer_record(*answer("r1")))
    spool.close()
    assert list(KnownRequests(tmp_path / "spool", events).find(["r1"])) == ["r1"]
    committer(tmp_path).commit()
    assert column(events, "requests", "request_id") == ["r1"]


def test_a_spool_that_could_not_be_read_to_its_end_was_not_followed(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch
):
    """What was there before is no news when it is read at last: events of it may have come and gone."""
    log = open_log(tmp_path)
    log.answered(*answer("r1"))

    def fails(*_: object) -> None:
        raise OSError("as a test wants it")

    known = KnownRequests(tmp_path / "spool", events)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="as a test"):
        patch.setattr("serve.known.read_frames", fails)
        known.unknown([])
    assert known.unknown(["r1"]) == ["r1"]
    log.close()


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


@pytest.mark.parametrize(
    ("slow", "seconds", "says"),
    [
        ("impressions", STALE_S + 1, None),
        ("impressions", KEPT_S + 1, "which requests"),
        ("feedback", STALE_S + 1, "which events"),
    ],
)
def test_slow_tables_give_an_answer_or_an_error_but_never_an_unknown_request(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch, slow: str, seconds: float, says: str | None
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
        clock[0] += seconds if table == slow else 0
        return read(self, table, **options)

    monkeypatch.setattr(EventTables, "read", read_slowly)
    if says is None:
        assert set(known.find(["r1"])["r1"].events) == {"e1"}
    else:
        with pytest.raises(DataError, match=f"tables took more than .* {says}"):
            known.find(["r1"])


def test_what_is_taken_in_and_swept_while_the_tables_are_read_is_found(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch
):
    """After a time in which the tables failed, in one turn, and so slowly read that the spool has to be read anew."""
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    log.accept([event("r1", "e1")])
    log.close()
    clock, read = [0.0], EventTables.read
    moving = Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    moving.sweep()
    clock[0] += KEPT_S + 1
    known = KnownRequests(tmp_path / "spool", events, clock=lambda: clock[0])

    def read_slowly(self: EventTables, table: Any, **options: Any) -> Any:
        found = read(self, table, **options)
        if table == "impressions":
            clock[0] += STALE_S + 1
        if table == "feedback":
            moving.commit()
            moving.sweep()
        return found

    monkeypatch.setattr(EventTables, "read", read_slowly)
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
