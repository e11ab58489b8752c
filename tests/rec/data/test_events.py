"""The log tables: what is appended is read again, by version and time, wherever they are; damage is named."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from moto.server import ThreadedMotoServer

import rec.data.events
from rec.data.event_rows import SCHEMAS
from rec.data.events import Batch, EventTables, open_events
from rec.errors import ConfigError, DataError
from rec.storage import Home
from tests.rec.data.log_rows import ROWS, feedback, impression, request


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
