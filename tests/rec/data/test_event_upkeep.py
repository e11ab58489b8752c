"""Upkeep of the log tables: nothing is lost that should stay, and what should go is gone from the files, too."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rec.data.event_upkeep import compact, expire, forget
from rec.data.events import Batch, EventTables, open_events
from rec.errors import DataError

TABLES = ("requests", "impressions", "feedback")


def append(events: EventTables, number: int, user_id: str) -> None:
    request_id = f"r{number}"
    request = {"request_id": request_id, "timestamp": 1000 + number, "user_id": user_id, "policy_version": "v"}
    request |= {"arm": "x", "epsilon": 0.1, "temperature": 1.0, "k": 1, "degraded": False, "context": "{}"}
    shown = {"request_id": request_id, "position": 0, "item_id": "a", "source": "x", "propensity": 0.5}
    event = {"event_id": f"e{number}", "request_id": request_id, "item_id": "a", "action": "liked"}
    events.append("requests", [request | {"history": []}])
    events.append("impressions", [shown | {"n_eligible": 2}])
    events.append_once("feedback", [Batch("s", number + 1, [event | {"timestamp": 2000, "received_at": 2000}])])


@pytest.fixture
def events(tmp_path: Path) -> EventTables:
    events = open_events(str(tmp_path))
    for number in range(8):
        append(events, number, f"u{number % 2}")
    return events


def ids(events: EventTables, table: str) -> list[str]:
    return sorted(events.read(table)["request_id"].to_pylist())  # pyright: ignore[reportArgumentType]


def test_compacting_makes_fewer_files_of_the_same_rows(events: EventTables):
    before = {table: ids(events, table) for table in TABLES}
    versions = events.versions()
    counts = compact(events)
    assert counts == {table: {"files_before": 8, "files_after": 1} for table in TABLES}
    assert {table: ids(events, table) for table in TABLES} == before
    old = events.read("requests", version=versions["requests"])
    assert sorted(old["request_id"].to_pylist()) == before["requests"], "earlier versions stay"
    append(events, 8, "u0")
    assert events.append_once("feedback", [Batch("s", 5, [{}])]) == 0, "what was handed over is remembered"


def test_what_is_old_expires_with_all_that_belongs_to_it(events: EventTables):
    assert expire(events, 1003) == {"feedback": 3, "impressions": 3, "requests": 3}
    for table in TABLES:
        assert ids(events, table) == [f"r{number}" for number in range(3, 8)]
    assert expire(events, 1003) == {"feedback": 0, "impressions": 0, "requests": 0}


def test_a_forgotten_user_is_in_no_file(events: EventTables, tmp_path: Path):
    assert forget(events, "u1") == {"feedback": 4, "impressions": 4, "requests": 4}
    left = [f"r{number}" for number in range(0, 8, 2)]
    for table in TABLES:
        assert ids(events, table) == left
        files = (tmp_path / "events" / table).glob("*.parquet")
        assert sorted(each for file in files for each in pq.read_table(file)["request_id"].to_pylist()) == left
    with pytest.raises(DataError, match="version"):
        events.read("requests", version=8)
    assert forget(events, "nobody") == {"feedback": 0, "impressions": 0, "requests": 0}


def test_a_log_never_written_needs_no_upkeep(tmp_path: Path):
    events = open_events(str(tmp_path))
    assert compact(events) == expire(events, 5000) == forget(events, "u1") == {}


def test_upkeep_beside_a_writer_loses_nothing(events: EventTables):
    def write() -> None:
        for number in range(8, 20):
            append(events, number, "u2")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            compact(events, keep_hours=0)
            forget(events, "u1")
        writing.result()
    expected = sorted(f"r{number}" for number in [*range(0, 8, 2), *range(8, 20)])
    assert [ids(events, table) for table in TABLES] == [expected] * 3
