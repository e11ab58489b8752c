"""Upkeep of a log from the command line: what it is asked for, and that servers hear of what was removed."""

from pathlib import Path
from typing import Any

import pytest

from rec.cli.events import CompactOptions, ExpireOptions, ForgetOptions, run_compact, run_expire, run_forget
from rec.data.events import EventTables
from rec.errors import ConfigError, DataError
from rec.storage import Home
from serve.committer import Committer
from serve.event_log import EventLog, UnknownRequestError
from serve.spool import segments

REQUEST: dict[str, Any] = {
    "request_id": "r1", "timestamp": 1_760_000_000_000, "user_id": "u1", "session_id": None, "policy_version": "v",
    "retriever_version": "v", "arm": "champion", "epsilon": 0.1, "temperature": 1.0, "k": 1, "degraded": False,
    "context": "{}", "history": [],
}  # fmt: skip
SHOWN: dict[str, Any] = {
    "request_id": "r1", "position": 0, "item_id": "a", "source": "x", "propensity": 0.5, "n_eligible": 2,
}  # fmt: skip


def event(event_id: str) -> dict[str, Any]:
    at = {"timestamp": REQUEST["timestamp"] + 1, "received_at": REQUEST["timestamp"] + 1}
    return {"event_id": event_id, "request_id": "r1", "item_id": "a", "action": "liked", "value": None, **at}


@pytest.mark.parametrize("options", [ExpireOptions, ForgetOptions])
@pytest.mark.parametrize("named", [False, True])
def test_a_running_server_takes_no_feedback_on_what_was_removed(tmp_path: Path, options: Any, named: bool):
    home, spool = tmp_path / "home", (tmp_path / "elsewhere" if named else tmp_path / "home" / "spool")
    tables = EventTables(Home(home))
    before = EventLog(spool, tables, sync_s=60, max_bytes=2**30)
    before.answered(REQUEST, [SHOWN])
    before.close()
    committer = Committer(spool, tables)
    committer.commit()
    for segment in segments(spool):
        segment.path.unlink()
    server = EventLog(spool, tables, sync_s=60, max_bytes=2**30)
    assert server.accept([event("e1")]).accepted == 1
    where = {"home": str(home), "spool": str(spool) if named else None}
    if options is ExpireOptions:
        run_expire(ExpireOptions(days=1, **where))
    else:
        run_forget(ForgetOptions(user="u1", **where))
    with pytest.raises(UnknownRequestError):
        server.accept([event("e2")])
    assert len(tables.read("requests")) == 0
    committer.close()
    server.close()


def test_a_home_without_a_log_is_named(tmp_path: Path):
    home = str(tmp_path / "nowhere")
    for run in (
        lambda: run_compact(CompactOptions(home=home)),
        lambda: run_expire(ExpireOptions(home=home, days=1)),
        lambda: run_forget(ForgetOptions(home=home, user="u1")),
    ):
        with pytest.raises(DataError, match="no log") as caught:
            run()
        assert "nowhere" in str(caught.value.file)


def test_a_spool_that_is_none_is_refused_before_anything_is_removed(tmp_path: Path):
    with pytest.raises(ConfigError, match="folder"):
        run_forget(ForgetOptions(home=str(tmp_path), user="u1", spool=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (ExpireOptions, {"days": 1e308}),
        (ExpireOptions, {"days": float("inf")}),
        (ExpireOptions, {"days": 0}),
        (CompactOptions, {"keep_hours": 10**20}),
        (CompactOptions, {"keep_hours": -1}),
    ],
)
def test_ages_beyond_all_calendars_are_refused(tmp_path: Path, options: Any, values: dict[str, Any]):
    with pytest.raises((ConfigError, ValueError), match=next(iter(values))):
        options(home=str(tmp_path), **values)
