"""What `tandem ope` refuses, and what it says of rows that it leaves out."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from rec.data.event_rows import SLOW_MS
from rec.data.events import EventTables
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import ACTIONS, REWARDS, InstaTok
from rl.instatok.slate_log import LogTables, by_category, log_slates

WORTH = ("--rewards", *(text for action, worth in zip(ACTIONS, REWARDS, strict=True) for text in (action, str(worth))))
NO_PLOT = ("--plot", "None", "--json")
ROUNDS = "user_id,reward,propensity,target_p\n"


@pytest.fixture(scope="module")
def tables() -> LogTables:
    world = InstaTok(InstaTokConfig(n_users=40, n_videos=60, seed=1))
    return log_slates(
        world,
        by_category(world.watch_p, 12),
        n_sessions=160,
        k=3,
        epsilon=0.3,
        temperature=0.5,
        rng=np.random.default_rng(0),
        max_requests=1,
    )


def home_of(folder: Path, **tables: Any) -> str:
    events = EventTables(Home(str(folder)))
    for name, rows in tables.items():
        events.append(name, rows)  # pyright: ignore[reportArgumentType]
    return str(folder)


def of(tables: LogTables) -> dict[str, pa.Table]:
    return {"requests": tables.requests, "impressions": tables.impressions, "feedback": tables.feedback}


def refused(done: Any) -> dict[str, Any]:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])["error"]


def test_what_is_left_out_is_said(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    asked = {row["request_id"]: row["timestamp"] for row in tables.requests.to_pylist()}
    answers = tables.feedback.to_pylist()
    now_ms = max(asked.values()) + 86_400_000
    odd = [
        answers[0],
        answers[1] | {"event_id": "late", "timestamp": asked[answers[1]["request_id"]] + 86_400_001},
        answers[2] | {"event_id": "early", "timestamp": asked[answers[2]["request_id"]] - SLOW_MS - 1},
        answers[3] | {"event_id": "future", "timestamp": now_ms + 1},
        answers[4] | {"event_id": "unknown", "request_id": "nobody"},
        answers[5] | {"event_id": "unshown", "item_id": "nothing"},
        answers[6] | {"event_id": "0", "timestamp": answers[6]["timestamp"] - 1},
    ]
    fresh = tables.requests.to_pylist()[0] | {"request_id": "fresh", "timestamp": now_ms - 1}
    shown = [
        row for row in tables.impressions.to_pylist() if row["request_id"] == tables.requests["request_id"][0].as_py()
    ]
    home = home_of(tmp_path / "home", **of(tables))
    home_of(
        tmp_path / "home", requests=[fresh], impressions=[row | {"request_id": "fresh"} for row in shown], feedback=odd
    )
    ask = ("ope", "--home", home, *WORTH, "--now-ms", str(now_ms), "--estimators", "cascade")
    answer = json.loads(tandem(*ask, *NO_PLOT).stdout)
    assert answer["dropped"] == {
        "repeated_feedback": 1,
        "young": 3,
        "feedback_without_request": 1,
        "feedback_without_impression": 1,
        "future_feedback": 1,
        "early_feedback": 1,
        "late_feedback": 1,
        "superseded_feedback": 1,
    }
    assert answer["n_requests"] == 160 and answer["now_ms"] == now_ms
    assert answer["weights"]["mean"] == pytest.approx(1) and answer["weights"]["ess"] == pytest.approx(160)
    told = tandem(*ask, "--plot", "None").stdout
    assert "left out: " in told and "1 early_feedback" in told and "3 young" in told and "weights: mean 1.000" in told


@pytest.mark.parametrize("missing", ["requests", "impressions", "feedback"])
def test_a_table_that_is_missing_is_named(tandem: Any, tables: LogTables, tmp_path: Path, missing: str) -> None:
    home = home_of(tmp_path / "home", **{name: rows for name, rows in of(tables).items() if name != missing})
    error = refused(tandem("ope", "--home", home, *WORTH, *NO_PLOT))
    assert error["type"] == "DataError" and error["file"].endswith(missing)
    assert f"no table of {missing}" in error["message"]


def test_silence_is_an_answer_where_that_is_said(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", requests=tables.requests, impressions=tables.impressions)
    answer = json.loads(tandem("ope", "--home", home, *WORTH, "--allow-no-feedback", *NO_PLOT).stdout)
    assert answer["logged_value"] == 0.0 and any("none of the 480 impressions" in text for text in answer["warnings"])


def test_one_user_is_too_few(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    """Intervals are over users; the contract has no estimate without one."""
    alone = tables.requests.set_column(2, tables.requests.schema.field("user_id"), pa.array(["me"] * 160))
    home = home_of(tmp_path / "home", **of(tables) | {"requests": alone})
    error = refused(tandem("ope", "--home", home, *WORTH, *NO_PLOT))
    assert "at least two are needed" in error["message"] and error["column"] == "user_id"
    assert error["file"].endswith("requests")
    file = tmp_path / "rounds.csv"
    file.write_text(ROUNDS + "me,1,0.5,0.5\nme,0,0.5,0.25\n")
    error = refused(tandem("ope", "--table", str(file), *NO_PLOT))
    assert "--columns.user-id None" in error["message"] and (error["file"], error["column"]) == (str(file), "user_id")
    done = tandem("ope", "--table", str(file), "--columns.user-id", "None", "--estimators", "ips", *NO_PLOT)
    assert json.loads(done.stdout)["estimates"]["ips"]["n_clusters"] == 2
    error = refused(tandem("ope", "--table", str(file), "--columns.user-id", "None", *NO_PLOT))
    assert "clipped_ips" in error["message"] and "ips, snips" in error["message"]


def test_two_users_of_one_fold_are_estimated(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    from rec.crossfit import user_folds
    from rec.ope.slate_log import N_FOLDS

    names = [f"u{number}" for number in range(20)]
    folds = user_folds(names, N_FOLDS)
    pair = [name for name, fold in zip(names, folds, strict=True) if fold == folds[0]][:2]
    two = tables.requests.set_column(2, tables.requests.schema.field("user_id"), pa.array(pair * 80))
    home = home_of(tmp_path / "home", **of(tables) | {"requests": two})
    answer = json.loads(tandem("ope", "--home", home, *WORTH, *NO_PLOT).stdout)
    assert answer["estimates"]["cascade_dr"]["n_clusters"] == 2


@pytest.mark.parametrize(
    ("name", "content", "said", "row", "column"),
    [
        ("a.parquet", b"no parquet", "not readable as Parquet", None, None),
        ("a.csv", (ROUNDS + "a,1,0.5,0.5\nb\xe9,1,0.5,0.5\n").encode("latin-1"), "not encoded as utf-8", 3, None),
        ("a.csv", (ROUNDS + "a,1,0.5,0.5\n").encode("utf-16"), "not encoded as utf-8", 1, None),
        ("a.csv", (ROUNDS + "a,1,0.5\n").encode(), "needs 4 fields", 2, None),
        ("a.csv", (ROUNDS + "a,1,0.5,0.5\nb,much,0.5,0.5\n").encode(), "a number is required", 3, "reward"),
        ("a.csv", (ROUNDS + "a,1,0.5,0.5\nb,1,,0.5\n").encode(), "a number is required", 3, "propensity"),
        ("a.csv", (ROUNDS + "a,1,0.5,0.5\n,1,0.5,0.5\n").encode(), "every row needs an id", 3, "user_id"),
        ("a.csv", b"user_id,reward,propensity\na,1,0.5\n", "no such column", None, "target_p"),
        ("a.csv", b"", "empty", None, None),
        ("a.csv", ROUNDS.encode(), "no rows", None, None),
        ("a.csv", None, "no such file", None, None),
        ("a.txt", b"", "a .parquet or a .csv file", None, None),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_named(
    tandem: Any, tmp_path: Path, name: str, content: bytes | None, said: str, row: int | None, column: str | None
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    error = refused(tandem("ope", "--table", str(file), *NO_PLOT))
    assert said in error["message"]
    assert (error["file"], error.get("row"), error.get("column")) == (str(file), row, column)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_folders_and_files_of_others_are_named(
    tandem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    folder = tmp_path / f"rounds.{suffix}"
    folder.mkdir()
    error = refused(tandem("ope", "--table", str(folder), *NO_PLOT))
    assert "this is a folder" in error["message"] and error["file"] == str(folder)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / f"b.{suffix}"
    file.write_text("x")
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    monkeypatch.setattr("pyarrow.parquet.read_table", forbidden)
    error = refused(tandem("ope", "--table", str(file), *NO_PLOT))
    assert "Permission denied" in error["message"] and error["file"] == str(file)


def test_improbable_values_of_a_file_name_its_own_rows_and_columns(tandem: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["a", "b", "c"], "reward": [True, False, True], "p": [0.5, 0.0, 0.2], "t": 0.5})
    names = ("--columns.user-id", "who", "--columns.propensity", "p", "--columns.target-p", "t")
    files = [tmp_path / "rounds.csv", tmp_path / "rounds.parquet"]
    frame.astype({"reward": int}).to_csv(files[0], index=False)
    frame.to_parquet(files[1])
    for file, row in zip(files, (3, 1), strict=True):
        error = refused(tandem("ope", "--table", str(file), *names, *NO_PLOT))
        assert error["type"] == "SupportError" and f"in row {row}." in error["message"]
        assert (error["file"], error["row"], error["column"]) == (str(file), row, "p")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (("--target", "current"), "target"),
        (("--epsilon", "0"), "epsilon"),
        (("--temperature", "1"), "temperature"),
        (("--rewards", "liked", "1"), "rewards"),
        (("--attribution-s", "60"), "attribution_s"),
        (("--since-ms", "0"), "since_ms"),
        (("--until-ms", "9"), "until_ms"),
        (("--now-ms", "9"), "now_ms"),
        (("--position-weights", "1", "0.5"), "position_weights"),
        (("--allow-no-feedback",), "allow_no_feedback"),
        (("--reward-range", "0", "1"), "reward_range"),
        (("--weight-bound", "4"), "weight_bound"),
    ],
)
def test_options_without_effect_are_refused(tandem: Any, tmp_path: Path, given: tuple[str, ...], field: str) -> None:
    file = tmp_path / "rounds.csv"
    file.write_text(ROUNDS + "".join(f"u{user},{user % 2},0.5,0.5\n" for user in range(9)))
    assert tandem("ope", "--table", str(file), "--estimators", "ips", *NO_PLOT).returncode == 0
    error = refused(tandem("ope", "--table", str(file), "--estimators", "ips", *given, *NO_PLOT))
    assert (error["type"], error["field"]) == ("ConfigError", field)


def test_predictions_of_a_table_are_asked_for_by_option(tandem: Any, tmp_path: Path) -> None:
    file = tmp_path / "rounds.csv"
    rows = "".join(f"u{user},{user % 2},0.5,0.5,0.3,0.4\n" for user in range(9))
    file.write_text(ROUNDS.strip() + ",shown,mean\n" + rows)
    ask = ("ope", "--table", str(file), "--estimators", "dr", *NO_PLOT)
    error = refused(tandem(*ask))
    assert error["type"] == "ConfigError" and "--columns.q-logged" in error["message"]
    assert error["message"].endswith("without them there are ips, snips, clipped_ips")
    named = ("--columns.q-logged", "shown", "--columns.q-target", "mean")
    found = json.loads(tandem(*ask, *named).stdout)["estimates"]["dr"]
    assert found["value"] == pytest.approx(0.4 + 4 / 9 - 0.3)


def test_predictions_come_as_a_pair(tandem: Any, tmp_path: Path) -> None:
    file = tmp_path / "rounds.csv"
    file.write_text(ROUNDS + "".join(f"u{user},{user % 2},0.5,0.5\n" for user in range(9)))
    for given, lacking in (("--columns.q-logged", "q_target"), ("--columns.q-target", "q_logged")):
        error = refused(tandem("ope", "--table", str(file), "--estimators", "ips", given, "reward", *NO_PLOT))
        assert (error["type"], error["field"]) == ("ConfigError", f"columns.{lacking}")


def test_an_estimator_is_asked_for_once_and_before_anything_is_read(tandem: Any, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for source, name in ((("--table", f"{nowhere}.csv"), "ips"), (("--home", nowhere, *WORTH), "cascade")):
        error = refused(tandem("ope", *source, "--estimators", name, name, *NO_PLOT))
        assert error["field"] == "estimators" and f"{name} is asked for twice" in error["message"]
        error = refused(tandem("ope", *source, "--estimators", "sips", *NO_PLOT))
        assert error["field"] == "estimators" and "no estimator 'sips'" in error["message"]


def test_the_empirical_bernstein_interval_is_given_of_what_has_it(tandem: Any, tmp_path: Path) -> None:
    """Unless others are named: they are not in the default then, and refused where they are asked for."""
    file = tmp_path / "rounds.csv"
    rows = "".join(f"u{user},{user % 2},0.5,0.5,0.3,0.4\n" for user in range(9))
    file.write_text(ROUNDS.strip() + ",shown,mean\n" + rows)
    ask = ("ope", "--table", str(file), "--interval", "empirical_bernstein", "--reward-range", "0", "1",
           "--weight-bound", "2", *NO_PLOT)  # fmt: skip
    assert list(json.loads(tandem(*ask).stdout)["estimates"]) == ["ips"]
    predicted = ("--columns.q-logged", "shown", "--columns.q-target", "mean")
    assert list(json.loads(tandem(*ask, *predicted).stdout)["estimates"]) == ["dm", "ips", "dr"]
    error = refused(tandem(*ask, "--estimators", "snips"))
    assert error["field"] == "method" and "dm, ips, dr have one" in error["message"]
    error = refused(tandem("ope", "--home", str(tmp_path), *WORTH, *ask[3:]))
    assert error["field"] == "interval" and "student_t or bootstrap" in error["message"]


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        (("--interval", "bootstrap", "--level", "0.9999"), "n_resamples", "100000 resamples"),
        (("--level", "0.9999999999999999"), "level", "less than or equal to"),
        (("--estimators", "clipped_ips", "--reward-range", "1", "0"), "reward_range", "exchange them"),
    ],
)
def test_intervals_that_cannot_be_are_refused(
    tandem: Any, tmp_path: Path, given: tuple[str, ...], field: str, told: str
) -> None:
    file = tmp_path / "rounds.csv"
    file.write_text(ROUNDS + "".join(f"u{user},{user % 2},0.5,0.5\n" for user in range(9)))
    error = refused(tandem("ope", "--table", str(file), *given, *NO_PLOT))
    assert (error["type"], error["field"]) == ("ConfigError", field) and told in error["message"]


@pytest.mark.parametrize(("since", "until"), [("9", "8"), ("9", "9")])
def test_times_between_which_nothing_lies_are_refused(tandem: Any, tmp_path: Path, since: str, until: str) -> None:
    error = refused(tandem("ope", "--home", str(tmp_path), *WORTH, "--since-ms", since, "--until-ms", until, *NO_PLOT))
    assert (error["type"], error["field"]) == ("ConfigError", "since_ms") and f"{since} and {until}" in error["message"]


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(
    tandem: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ("ope", "--table", str(tmp_path / "nowhere.csv"), "--json")
    for path, told in ((tmp_path, "this is a folder"), (tmp_path / "no" / "ope.html", "does not exist")):
        error = refused(tandem(*table, "--plot", str(path)))
        assert (error["type"], error["field"], error["file"]) == ("ConfigError", "plot", str(path))
        assert told in error["message"]
    monkeypatch.setattr("os.access", lambda path, mode: False)
    error = refused(tandem(*table, "--plot", str(tmp_path / "ope.html")))
    assert error["field"] == "plot" and "may not be written" in error["message"]


@pytest.mark.parametrize("option", ["since", "until", "now"])
def test_times_in_seconds_are_refused(tandem: Any, tmp_path: Path, option: str) -> None:
    error = refused(tandem("ope", "--home", str(tmp_path), *WORTH, f"--{option}-ms", "1700000000", *NO_PLOT))
    assert (error["type"], error["field"]) == ("ConfigError", f"{option}_ms") and "seconds times 1,000" in error[
        "message"
    ]


def test_a_plot_never_overwrites_the_table(tandem: Any, tmp_path: Path) -> None:
    file, link, hard = (tmp_path / name for name in ("rounds.csv", "link.html", "hard.html"))
    content = ROUNDS + "".join(f"u{user},{user % 2},0.5,0.5\n" for user in range(9))
    file.write_text(content)
    link.symlink_to(file)
    hard.hardlink_to(file)
    for plot in (file, link, hard, tmp_path / "." / "rounds.csv"):
        error = refused(tandem("ope", "--table", str(file), "--plot", str(plot), "--json"))
        assert (error["type"], error["field"]) == ("ConfigError", "plot") and "the table itself" in error["message"]
    assert file.read_text() == content


def test_a_plot_is_no_device(tandem: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for plot in (str(pipe), "/dev/full"):
        error = refused(tandem("ope", "--table", str(tmp_path / "nowhere.csv"), "--plot", plot, "--json"))
        assert (error["field"], error["file"]) == ("plot", plot) and "device or a pipe" in error["message"]


def test_a_home_is_no_file(tandem: Any, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    error = refused(tandem("ope", "--home", str(tmp_path / "home"), *WORTH, *NO_PLOT))
    assert (error["type"], error["field"], error["file"]) == ("ConfigError", "home", str(tmp_path / "home"))
    assert "this is a file" in error["message"]


def test_feedback_without_a_row_is_no_feedback(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", requests=tables.requests, impressions=tables.impressions)
    write_deltalake(EventTables(Home(home)).uri("feedback"), tables.feedback.schema.empty_table())
    error = refused(tandem("ope", "--home", home, *WORTH, *NO_PLOT))
    assert error["type"] == "DataError" and "feedback without a row" in error["message"]
    answer = json.loads(tandem("ope", "--home", home, *WORTH, "--allow-no-feedback", *NO_PLOT).stdout)
    assert answer["logged_value"] == 0.0


def test_rewards_too_large_to_compute_with_are_refused(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", **of(tables))
    worth = [text if text in ACTIONS else "1e300" for text in WORTH[1:]]
    error = refused(tandem("ope", "--home", home, "--rewards", *worth, *NO_PLOT))
    assert error["column"] == "rewards" and "another unit" in error["message"]
    file = tmp_path / "rounds.csv"
    file.write_text(ROUNDS + "a,1,0.5,0.5\nb,1e300,0.5,0.5\nc,1,0.5,0.5\n")
    error = refused(tandem("ope", "--table", str(file), *NO_PLOT))
    assert (error["file"], error["row"], error["column"]) == (str(file), 3, "reward")


def test_slates_of_which_impressions_are_lost_are_counted(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    last = np.flatnonzero(tables.impressions["position"].to_numpy() == 2)[:30]
    left = tables.impressions.take(np.setdiff1d(np.arange(len(tables.impressions)), last))
    home = home_of(tmp_path / "home", **of(tables) | {"impressions": left})
    answer = json.loads(tandem("ope", "--home", home, *WORTH, "--estimators", "cascade", *NO_PLOT).stdout)
    assert answer["dropped"]["incomplete_slates"] == answer["n_incomplete_slates"] == 30
    assert answer["n_requests"] == 130 and "requests_without_candidates" not in answer["dropped"]


def test_columns_are_those_of_a_table(tandem: Any, tmp_path: Path) -> None:
    error = refused(tandem("ope", "--home", str(tmp_path), *WORTH, "--columns.user-id", "who", *NO_PLOT))
    assert (error["type"], error["field"]) == ("ConfigError", "columns") and "--table" in error["message"]


def test_rewards_count_by_position(tandem: Any, tables: LogTables, tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", **of(tables))

    def value(*weights: str) -> float:
        given = ("--position-weights", *weights) if weights else ()
        answer = json.loads(tandem("ope", "--home", home, *WORTH, "--estimators", "cascade_dr", "--temperature", "0.2",
                                   *given, *NO_PLOT).stdout)  # fmt: skip
        return answer["estimates"]["cascade_dr"]["value"]

    assert value("1", "1", "1") == pytest.approx(value())
    assert value("2", "2", "2") == pytest.approx(2 * value())
    assert value("1", "0", "0") != pytest.approx(value())
    for wrong in (("1", "0.5"), ("1", "0.5", "0.3", "0.2"), ("1", "0.5", "-0.3")):
        error = refused(tandem("ope", "--home", home, *WORTH, "--position-weights", *wrong, *NO_PLOT))
        assert error["field"] == "position_weights" and "3 positions" in error["message"]
