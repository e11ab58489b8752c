"""Rows of the log tables: what is wrong is refused by table, row and column, and nothing is written."""

import numpy as np
import pyarrow as pa
import pytest

from rec.data.event_rows import is_time_ms, validated
from rec.data.events import open_events
from rec.errors import DataError
from tests.rec.data.log_rows import ROWS, feedback, impression, request

REFUSED = [
    ("requests", {"epsilon": 1.5}, "epsilon"),
    ("requests", {"temperature": float("nan")}, "temperature"),
    ("requests", {"temperature": float("inf")}, "temperature"),
    ("requests", {"k": 0}, "k"),
    ("requests", {"timestamp": -1}, "timestamp"),
    ("requests", {"user_id": ""}, "user_id"),
    ("requests", {"user_id": None}, "user_id"),
    ("requests", {"history": None}, "history"),
    ("requests", {"context": "no json"}, "context"),
    ("requests", {"context": "[1]"}, "context"),
    ("requests", {"candidate_scores": [1.0]}, "candidate_scores"),
    ("requests", {"candidate_scores": None}, "candidate_scores"),
    ("requests", {"candidate_scores": [1.0, float("nan"), 0.0]}, "candidate_scores"),
    ("requests", {"candidate_sources": ["i2i"]}, "candidate_sources"),
    ("requests", {"timestamp": "soon"}, "timestamp"),
    ("impressions", {"propensity": 0.0}, "propensity"),
    ("impressions", {"propensity": 1.01}, "propensity"),
    ("impressions", {"propensity": float("nan")}, "propensity"),
    ("impressions", {"n_eligible": 0}, "n_eligible"),
    ("impressions", {"position": -1}, "position"),
    ("impressions", {"position": 40_000}, "position"),
    ("impressions", {"item_id": 17}, "item_id"),
    ("feedback", {"action": None}, "action"),
    ("feedback", {"received_at": -5}, "received_at"),
    ("requests", {"timestamp": 1_700_000_000}, "timestamp"),
    ("requests", {"timestamp": 1_700_000_000_000_000}, "timestamp"),
    ("feedback", {"timestamp": 1_700_000_000}, "timestamp"),
    ("feedback", {"received_at": 1_700_000_000}, "received_at"),
    ("feedback", {"action": ""}, "action"),
    ("feedback", {"value": float("nan")}, "value"),
    ("feedback", {"value": float("inf")}, "value"),
    ("feedback", {"value": 1j}, "value"),
    ("feedback", {"item_id": "\ud800"}, "item_id"),
    ("requests", {"history": ["\ud800"]}, "history"),
    ("requests", {"context": "[" * 200_000}, "context"),
]


@pytest.mark.parametrize(("table", "values", "column"), REFUSED)
def test_a_wrong_value_is_refused_by_table_row_and_column_and_nothing_is_written(tmp_path, table, values, column):
    events = open_events(str(tmp_path))
    with pytest.raises(DataError) as refused:
        events.append(table, [ROWS[table], {**ROWS[table], **values}])
    assert (refused.value.file, refused.value.row, refused.value.column) == (table, 1, column)
    assert events.version(table) is None


def test_columns_missing_or_unknown_are_named(tmp_path):
    events = open_events(str(tmp_path))
    with pytest.raises(DataError, match="propensity"):
        events.append("impressions", [{**impression(), "propensitty": 0.5}])
    bare = pa.table({"request_id": ["r1"], "position": [0]})
    with pytest.raises(DataError) as refused:
        events.append("impressions", bare)
    assert refused.value.column == "item_id"


@pytest.mark.parametrize("column", ["request_id", "user_id"])
def test_ids_with_nul_are_refused(tmp_path, column):
    with pytest.raises(DataError, match="NUL") as refused:
        open_events(str(tmp_path)).append("requests", [request("r0"), request("r1") | {column: "a\0"}])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("requests", 1, column)


@pytest.mark.parametrize("column", ["request_id", "session_id", "history"])
def test_ids_longer_than_the_api_takes_are_refused(column):
    def rows(length):
        return [request("r0"), request("r1") | {column: ["é" * length] if column == "history" else "é" * length}]

    validated("requests", rows(256))
    with pytest.raises(DataError, match="256 characters") as refused:
        validated("requests", rows(257))
    assert (refused.value.row, refused.value.column) == (1, column)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("candidates", ["a", "a"]),
        ("candidates", ["a", None]),
        ("candidates", ["a", ""]),
        ("history", ["a", None]),
        ("candidate_scores", [1.0, None]),
    ],
)
def test_lists_with_holes_or_repeated_candidates_are_refused(tmp_path, column, values):
    logged = {"candidates": ["a", "b"], "candidate_scores": [2.0, 1.0], "candidate_sources": None}
    with pytest.raises(DataError) as refused:
        open_events(str(tmp_path)).append("requests", [request("r0"), request("r1", **logged) | {column: values}])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("requests", 1, column)


@pytest.mark.parametrize(("column", "value"), [("position", 1.9), ("n_eligible", True), ("propensity", True)])
def test_numbers_of_another_type_are_refused_and_not_cut(tmp_path, column, value):
    with pytest.raises(DataError, match="is required") as refused:
        open_events(str(tmp_path)).append("impressions", [impression(), impression("r2", **{column: value})])
    assert (refused.value.row, refused.value.column) == (1, column)


@pytest.mark.parametrize(
    ("rows", "row", "found"),
    [("nonsense", None, "str"), (feedback(), None, "dict"), (None, None, "NoneType"), ([feedback(), "e2"], 1, "str")],
)
def test_rows_that_are_no_records_are_refused(tmp_path, rows, row, found):
    with pytest.raises(DataError, match=f"list of records by column; found {found}") as refused:
        open_events(str(tmp_path)).append("feedback", rows)
    assert (refused.value.file, refused.value.row) == ("feedback", row)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("impressions", "propensity", [True, True]),
        ("impressions", "propensity", ["0.5", "1"]),
        ("impressions", "n_eligible", [True, True]),
        ("impressions", "n_eligible", [1.0, 2.0]),
        ("impressions", "item_id", [17, 18]),
        ("requests", "timestamp", ["5", "6"]),
        ("requests", "degraded", [0, 1]),
        ("requests", "history", [[1], [2]]),
    ],
)
def test_a_table_is_refused_where_its_records_are(tmp_path, table, column, values):
    events = open_events(str(tmp_path))
    records = [{**ROWS[table], column: value} for value in values]
    rows = pa.Table.from_pylist(records)
    for given in (records, rows):
        with pytest.raises(DataError, match="is required") as refused:
            events.append(table, given)
        assert (refused.value.file, refused.value.row, refused.value.column) == (table, 0, column)
    assert events.append(table, pa.Table.from_pylist([ROWS[table]])) is not None


def test_a_number_that_does_not_fit_names_its_row(tmp_path):
    rows = pa.Table.from_pylist([impression(), impression("r2", 40_000)])
    with pytest.raises(DataError) as refused:
        open_events(str(tmp_path)).append("impressions", rows)
    assert (refused.value.row, refused.value.column) == (1, "position")


@pytest.mark.parametrize("date", ["2001-09-10", "2024-02-29", "2099-12-31"])
def test_no_time_of_this_century_is_taken_for_one_in_another_unit(date):
    per_unit = {unit: np.datetime64(date, unit).astype(np.int64) for unit in ("s", "ms", "us", "ns")}
    assert {unit for unit, time in per_unit.items() if is_time_ms(time)} == {"ms"}
    clock_from_0 = np.arange(7) * 86_400_000
    assert is_time_ms(clock_from_0).all() and not is_time_ms(-clock_from_0[1:]).any()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_arrow_times_are_milliseconds_whatever_their_unit(unit, zone):
    at_ms = 1_700_000_000_000
    times = pa.array([at_ms * 1000 + (7 if unit in ("us", "ns") else 0)], pa.timestamp("us", "UTC"))
    rows = pa.Table.from_pylist([feedback(timestamp=at_ms)])
    rows = rows.set_column(rows.column_names.index("timestamp"), "timestamp", times.cast(pa.timestamp(unit, zone)))
    assert validated("feedback", rows)["timestamp"].to_pylist() == [at_ms]


def test_columns_that_are_there_twice_or_have_no_name_are_refused():
    twice = pa.table([["r1"], ["r2"]], names=["request_id", "request_id"])
    with pytest.raises(DataError, match="twice") as refused:
        validated("impressions", twice)
    assert refused.value.column == "request_id"
    for name in (5, "\ud800"):
        with pytest.raises(DataError, match="unknown column"):
            validated("impressions", [{**impression(), name: 1}])
