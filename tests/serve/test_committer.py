"""The spool taken into the tables: each record once, whoever fails when, and segments that go in time."""

import itertools
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import time
from typing import Any

import pytest

import rec.data.events
from rec.data.events import EventTables
from rec.errors import DataError
from serve.committer import LATE_S, REFUSED, Committer, is_followed
from serve.known import KEPT_S
from serve.spool import segments
from tests.serve.logs import answer, column, committer, event, open_log


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


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_refused_is_kept_aside_whichever_table_fails(
    tmp_path: Path, events: EventTables, monkeypatch: pytest.MonkeyPatch, restarted: bool
):
    """Also where the table that refused it has taken a later record of the same writer; by one process only once."""
    log, moving = open_log(tmp_path), committer(tmp_path)
    log._writer.append(b"no record")
    log._writer.append(b"[]")
    log.answered(*answer("r0"))
    request, shown = answer("r1")
    log.answered(request, [{**row, "propensity": 0.0} for row in shown])
    log.answered(*answer("r2"))
    log.accept([event("r2", "e1")])
    kept = tmp_path / "spool" / REFUSED
    with monkeypatch.context() as patch:
        for failing in (
            0,
            1,
            1,
            None,
        ):  # requests, then impressions, then feedback, as what is there is not written again
            if failing is None:
                patch.undo()
            else:
                patch.setattr(rec.data.events, "write_deltalake", failing_write(at=failing, after=False))
            with nullcontext() if failing is None else pytest.raises(DataError):
                moving.commit()
            if restarted:
                moving.close()
                moving = committer(tmp_path)
    lines = kept.read_text().splitlines()
    assert {"no record", "[]"} < set(lines) and len(set(lines)) == 3
    assert any(line.startswith('{"impressions"') and '"r1"' in line for line in lines)
    if not restarted:
        assert moving.n_refused == len(lines) == 3
    assert set(column(events, "impressions", "request_id")) == {"r0", "r2"}
    assert column(events, "feedback", "event_id") == ["e1"]


def test_what_is_refused_waits_for_a_disk_that_takes_it(tmp_path: Path, events: EventTables):
    """And its segment with it."""
    clock, refused = [0.0], tmp_path / "spool" / REFUSED
    log, moving = open_log(tmp_path), Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    log._writer.append(b"no record")
    log.close()
    refused.mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match=REFUSED):
            moving.commit()
        moving.sweep()
        clock[0] += KEPT_S + 1
    assert len(segments(tmp_path / "spool")) == 1
    refused.rmdir()
    moving.commit()
    assert refused.read_text() == "no record\n" and moving.n_refused == 1


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


def test_what_the_tables_took_in_late_stays_for_those_who_asked_them_before(tmp_path: Path, events: EventTables):
    """The tables failed for longer than a segment is kept, and the first turn that succeeds sweeps, too."""
    clock = [0.0]
    log = open_log(tmp_path)
    log.answered(*answer("r1"))
    log.close()
    (left,) = segments(tmp_path / "spool")
    moving = Committer(tmp_path / "spool", events, clock=lambda: clock[0])
    moving.sweep()
    clock[0] += KEPT_S + 1
    for seconds, there in ((0, [left]), (KEPT_S - 1, [left]), (2, [])):
        clock[0] += seconds
        moving.commit()
        moving.sweep()
        assert segments(tmp_path / "spool") == there


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
