"""The log tables: what is appended is read again, by version and time; what is wrong is refused by its place."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from moto.server import ThreadedMotoServer

import rec.data.events
from rec.data.event_rows import SCHEMAS, is_time_ms, validated
from rec.data.events import Batch, EventTables, open_events
from rec.errors import ConfigError, DataError
from rec.storage import Home


def request(request_id="r1", **values):
    row = {
        "request_id": request_id,
        "timestamp": 1000,
        "user_id": "u1",
        "policy_version": "v1",
        "arm": "champion",
        "epsilon": 0.1,
        "temperature": 1.0,
        "k": 2,
        "degraded": False,
        "context": "{}",
        "history": ["a", "b"],
        "candidates": ["a", "b", "c"],
        "candidate_scores": [0.5, 0.25, 0.0],
        "candidate_sources": ["two_tower", "i2i", "i2i"],
    }
    return {**row, **values}


def impression(request_id="r1", position=0, item_id="a", **values):
    row = {"request_id": request_id, "position": position, "item_id": item_id, "source": "two_tower"}
    return {**row, "propensity": 0.5, "n_eligible": 3, **values}


def feedback(event_id="e1", request_id="r1", item_id="a", action="watched", timestamp=2000, **values):
    row = {"event_id": event_id, "request_id": request_id, "item_id": item_id, "action": action}
    return {**row, "timestamp": timestamp, "received_at": timestamp + 5, **values}


ROWS = {"requests": request(), "impressions": impression(), "feedback": feedback()}


@pytest.mark.parametrize("table", SCHEMAS)
def test_what_is_appended_is_read_again(tmp_path, table):
    events = open_events(str(tmp_path))
    assert events.version(table) is None and events.read(table).num_rows == 0
    events.append(table, [ROWS[table]])
    read = events.read(table)
    assert read.schema.equals(SCHEMAS[table])
    expected = {name: ROWS[table].get(name) for name in SCHEMAS[table].names}
    assert read.to_pylist() == [expected]


def test_versions_are_kept(tmp_path):
    events = open_events(str(tmp_path))
    first = events.append("feedback", [feedback("e1")])
    second = events.append("feedback", [feedback("e2"), feedback("e3")])
    assert events.versions() == {"requests": None, "impressions": None, "feedback": second}
    assert events.read("feedback", version=first)["event_id"].to_pylist() == ["e1"]
    assert sorted(events.read("feedback", version=second)["event_id"].to_pylist()) == ["e1", "e2", "e3"]
    for version in (second + 1, 99, 1_700_000_000_000):
        with pytest.raises(DataError, match=f"no version {version} yet: the last is {second}"):
            events.read("feedback", version=version)
    with pytest.raises(DataError, match="never written"):
        events.read("requests", version=0)


def test_an_empty_append_writes_nothing(tmp_path):
    events = open_events(str(tmp_path))
    assert events.append("requests", []) is None
    assert events.append("requests", SCHEMAS["requests"].empty_table()) is None


def test_reads_by_time_partition_the_log(tmp_path):
    events = open_events(str(tmp_path))
    times = [10, 20, 20, 30]
    events.append("requests", [request(f"r{n}", timestamp=time) for n, time in enumerate(times)])
    events.append("impressions", [impression(f"r{n}", item_id=str(n)) for n in range(4)])
    for table, column in (("requests", "request_id"), ("impressions", "request_id")):
        early = events.read(table, until_ms=20)[column].to_pylist()
        late = events.read(table, since_ms=20)[column].to_pylist()
        assert early == ["r0"] and sorted(late) == ["r1", "r2", "r3"]
        assert sorted(events.read(table, since_ms=20, until_ms=30)[column].to_pylist()) == ["r1", "r2"]


def test_optional_columns_may_be_left_out(tmp_path):
    events = open_events(str(tmp_path))
    sampled_off = request(candidates=None, candidate_scores=None, candidate_sources=None)
    events.append(
        "requests",
        [
            sampled_off,
            request("r2", candidate_sources=None),
            request("r3", candidates=[], candidate_scores=[], candidate_sources=[]),
        ],
    )
    read = events.read("requests", columns=["request_id", "candidates"]).to_pylist()
    assert {row["request_id"]: row["candidates"] for row in read} == {"r1": None, "r2": ["a", "b", "c"], "r3": []}


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


def test_writers_side_by_side_lose_nothing(tmp_path):
    def append(name):
        open_events(str(tmp_path)).append("feedback", [feedback(name)])

    names = [f"e{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, names))
    assert sorted(open_events(str(tmp_path)).read("feedback")["event_id"].to_pylist()) == sorted(names)


def batch(source, position, *names):
    return Batch(source, position, [feedback(name, request_id=f"r{name}") for name in names])


def event_ids(events):
    return sorted(events.read("feedback")["event_id"].to_pylist())


def test_batches_handed_over_again_are_there_once(tmp_path):
    events = open_events(str(tmp_path))
    first = [batch("one", 10, "a", "b"), batch("two", 7, "c")]
    assert events.append_once("feedback", first) == 3
    assert events.append_once("feedback", first) == 0
    assert events.append_once("feedback", [*first, batch("one", 20, "d"), batch("three", 1, "e")]) == 2
    assert events.append_once("feedback", [batch("one", 30)]) == 0
    assert event_ids(events) == ["a", "b", "c", "d", "e"]
    assert events.append_once("requests", [Batch("one", 5, [request()])]) == 1, "each table has positions of its own"


@pytest.fixture(scope="module")
def object_store():
    """A server of S3 on the loopback interface, as Delta Lake's options and as a URL with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    options = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    options |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    Home(f"s3://key:secret@bucket/base?{query}")._filesystem.create_dir("bucket")
    yield options, f"s3://key:secret@bucket/base?{query}"
    server.stop()


@pytest.fixture(params=["local", "object store"])
def opened(request, tmp_path):
    """Opens the same log again at every call."""
    if request.param == "local":
        return lambda: open_events(str(tmp_path))
    options, url = request.getfixturevalue("object_store")
    return lambda: EventTables(Home(url.replace("/base", f"/{tmp_path.name}")), options)


def test_writers_at_once_lose_nothing_wherever_the_log_is(opened):
    """In an object store by conditional puts."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: opened().append("feedback", [feedback(f"e{number}")]), range(8)))
    assert event_ids(opened()) == [f"e{number}" for number in range(8)]


def test_an_object_store_without_conditional_puts_is_refused(object_store, tmp_path):
    options, url = object_store
    events = EventTables(Home(url.replace("/base", f"/{tmp_path.name}")), options | {"AWS_CONDITIONAL_PUT": "disabled"})
    with pytest.raises(DataError, match="could not be written"):
        events.append("feedback", [feedback()])


def test_of_two_that_hand_over_the_same_at_once_one_adds_it(opened, monkeypatch):
    events = opened()
    events.append_once("feedback", [batch("one", 10, "a")])
    write = rec.data.events.write_deltalake

    def overtaken(*args, **options):
        monkeypatch.setattr(rec.data.events, "write_deltalake", write)
        assert opened().append_once("feedback", [batch("one", 20, "b")]) == 1
        write(*args, **options)

    monkeypatch.setattr(rec.data.events, "write_deltalake", overtaken)
    assert events.append_once("feedback", [batch("one", 20, "b"), batch("two", 1, "c")]) == 1
    assert event_ids(events) == ["a", "b", "c"]


def test_a_wrong_row_keeps_its_batches_out(tmp_path):
    events = open_events(str(tmp_path))
    wrong = Batch("one", 10, [feedback("a"), feedback("b", timestamp=-1)])
    with pytest.raises(DataError, match="timestamp"):
        events.append_once("feedback", [wrong])
    assert events.append_once("feedback", [batch("one", 10, "a")]) == 1


@pytest.mark.parametrize("position", [0, -1, 1.5, None])
def test_a_position_before_which_all_would_be_held_is_refused(tmp_path, position):
    with pytest.raises(DataError, match=f"'one' has handed over is a whole number, 1 or more; found {position}"):
        open_events(str(tmp_path)).append_once("feedback", [batch("one", position, "a")])


def test_rows_of_some_requests_are_read(tmp_path):
    events = open_events(str(tmp_path))
    for number in range(4):
        events.append("feedback", [feedback(f"e{number}", request_id=f"r{number}")])
        events.append("requests", [request(f"r{number}")])
        events.append("impressions", [impression(f"r{number}")])
    for table in ("requests", "impressions", "feedback"):
        found = events.read(table, request_ids=["r1", "r3", "r7"])["request_id"].to_pylist()
        assert sorted(found) == ["r1", "r3"]
        assert len(events.read(table, request_ids=[])) == 0


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, float("nan"), None])
def test_a_row_that_others_wrote_is_refused_when_it_is_read(tmp_path, value):
    events = open_events(str(tmp_path))
    rows = pa.table(
        {
            "request_id": ["r0", "r1"],
            "position": pa.array([0, 0], pa.int16()),
            "item_id": ["a", "b"],
            "source": ["x", "x"],
            "propensity": pa.array([0.5, value], pa.float64()),
            "n_eligible": pa.array([5, 5], pa.int64()),
        }
    )
    write_deltalake(events.uri("impressions"), rows)
    with pytest.raises(DataError) as caught:
        events.read("impressions")
    assert (caught.value.file, caught.value.row, caught.value.column) == ("impressions", 1, "propensity")


def test_missing_columns_and_damaged_files_are_refused_by_name(tmp_path):
    events = open_events(str(tmp_path))
    write_deltalake(events.uri("impressions"), pa.table({"request_id": ["r0"]}))
    with pytest.raises(DataError, match="required") as caught:
        events.read("impressions")
    assert caught.value.file == "impressions" and caught.value.column == "position"
    (part,) = (tmp_path / "events" / "impressions").glob("*.parquet")
    part.write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read") as caught:
        events.read("impressions")
    assert caught.value.file == events.uri("impressions") and "\n" not in caught.value.message


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


def test_a_commit_that_a_loss_of_power_emptied_is_refused_by_name(tmp_path):
    events = open_events(str(tmp_path))
    for event_id in ("e1", "e2"):
        last = events.append("feedback", [feedback(event_id)])
    commit = tmp_path / "events" / "feedback" / "_delta_log" / f"{last:020}.json"
    commit.write_bytes(b"")
    for use in (
        lambda: events.read("feedback"),
        events.versions,
        lambda: events.append("feedback", [feedback("e3")]),
        lambda: events.append_once("feedback", [batch("one", 1, "e3")]),
    ):
        with pytest.raises(DataError, match="commit is empty") as refused:
            use()
        assert refused.value.file == str(commit)
    assert events.read("feedback", version=last - 1)["event_id"].to_pylist() == ["e1"]
    commit.write_text("{")
    assert events.read("feedback", version=last - 1)["event_id"].to_pylist() == ["e1"]


def test_rows_without_commits_are_not_taken_for_a_new_table(tmp_path):
    events = open_events(str(tmp_path))
    events.append("feedback", [feedback()])
    for commit in (tmp_path / "events" / "feedback" / "_delta_log").iterdir():
        commit.unlink()
    for use in (lambda: events.read("feedback"), lambda: events.append("feedback", [feedback("e2")])):
        with pytest.raises(DataError, match="_delta_log") as refused:
            use()
        assert refused.value.file == events.uri("feedback")


def test_a_home_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "home").write_text("x")
    events = open_events(str(tmp_path / "home"))
    for use in (lambda: events.read("feedback"), lambda: events.append("feedback", [feedback()])):
        with pytest.raises(DataError, match="this is a file") as refused:
            use()
        assert refused.value.file == str(tmp_path / "home")


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


def test_tables_and_columns_that_there_are_not_are_named(tmp_path):
    events = open_events(str(tmp_path))
    for use in (
        lambda name: events.append(name, [request()]),
        lambda name: events.append(name, []),
        events.read,
        events.version,
        events.uri,
    ):
        with pytest.raises(ConfigError, match="no table 'nonsense'; there are requests, impressions, feedback"):
            use("nonsense")
    with pytest.raises(ConfigError, match="found 'clicks'") as refused:
        events.read("feedback", columns=["event_id", "clicks"])
    assert refused.value.field == "columns"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("request_ids", "r1"),
        ("request_ids", 1),
        ("request_ids", ["r1", None]),
        ("request_ids", ["r\ud800"]),
        ("columns", []),
        ("columns", "event_id"),
        ("version", 0.5),
        ("since_ms", float("nan")),
        ("since_ms", 1.5),
        ("until_ms", 2**63),
        ("until_ms", "9"),
    ],
)
def test_what_cannot_be_asked_for_is_named(tmp_path, argument, value):
    with pytest.raises(ConfigError) as refused:
        open_events(str(tmp_path)).read("feedback", **{argument: value})
    assert refused.value.field == argument


@pytest.mark.parametrize(
    ("rows", "row", "found"),
    [("nonsense", None, "str"), (feedback(), None, "dict"), (None, None, "NoneType"), ([feedback(), "e2"], 1, "str")],
)
def test_rows_that_are_no_records_are_refused(tmp_path, rows, row, found):
    with pytest.raises(DataError, match=f"list of records by column; found {found}") as refused:
        open_events(str(tmp_path)).append("feedback", rows)
    assert (refused.value.file, refused.value.row) == ("feedback", row)


def test_versions_below_0_and_times_the_wrong_way_round_are_refused(tmp_path):
    events = open_events(str(tmp_path))
    for _ in range(2):
        with pytest.raises(ConfigError, match="found -1") as refused:
            events.read("feedback", version=-1)
        assert refused.value.field == "version"
        for table in SCHEMAS:
            with pytest.raises(ConfigError, match="found 9 and 8: exchange them") as refused:
                events.read(table, since_ms=9, until_ms=8)
            assert refused.value.field == "since_ms"
            assert not len(events.read(table, since_ms=9, until_ms=9))
        for table, row in ROWS.items():
            events.append(table, [row])


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
