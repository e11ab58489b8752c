"""What logs are made of in tests: answers, events, and who writes and reads them."""

from pathlib import Path
from typing import Any

from rec.data.events import EventTables, open_events
from serve.committer import Committer
from serve.event_log import EventLog

NOW_MS = 1_800_000_000_000


def answer(request_id: str, items: tuple[str, ...] = ("a", "b")) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    request = {"request_id": request_id, "timestamp": NOW_MS, "user_id": "u1", "policy_version": "v1", "arm": "x"}
    request |= {"epsilon": 0.1, "temperature": 1.0, "k": 2, "degraded": False, "context": "{}", "history": ["h"]}
    shown = {"request_id": request_id, "source": "i2i", "propensity": 1 / 3, "n_eligible": 3}
    return request, [{**shown, "position": position, "item_id": item} for position, item in enumerate(items)]


def event(request_id: str, event_id: str | None = None, item_id: str = "a", action: str = "watched") -> dict[str, Any]:
    row = {"request_id": request_id, "item_id": item_id, "action": action}
    return row | {"event_id": event_id, "timestamp": NOW_MS + 1, "received_at": NOW_MS + 2}


def open_log(tmp_path: Path, **options: Any) -> EventLog:
    return EventLog(tmp_path / "spool", open_events(str(tmp_path)), **{"sync_s": 0.01, "max_bytes": 10**9, **options})


def committer(tmp_path: Path) -> Committer:
    return Committer(tmp_path / "spool", open_events(str(tmp_path)))


def column(events: EventTables, table: Any, name: str) -> list[Any]:
    return sorted(events.read(table)[name].to_pylist())
