"""Feedback over HTTP, without a network, and what is in the tables of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from rec.data.event_rows import SLOW_MS
from serve.api import Api
from serve.config import ServeConfig
from serve.event_log import now_ms
from serve.gateway import Gateway
from serve.request_log import AHEAD_MS
from serve.schemas import MAX_EVENTS
from tests.serve.services import Request, Service, problem, shown


@pytest.fixture
def request_to(service: Service, ask: Callable[..., httpx.Response]) -> Request:
    return partial(ask, Api(service.gateway, ServeConfig(home=".")))


def test_feedback_is_acknowledged_and_counted(request_to: Request, service: Service):
    answer = shown(request_to)
    event = {"request_id": answer["request_id"], "item_id": answer["items"][1]["item_id"], "action": "watched"}
    first = request_to("POST", "/v1/feedback", json={**event, "event_id": "e1", "value": 0.5})
    again = request_to("POST", "/v1/feedback", json=[{**event, "event_id": "e1"}, {**event, "event_id": "e2"}])
    assert (first.status_code, first.json()) == (202, {"accepted": 1, "duplicates": 0})
    assert (again.status_code, again.json()) == (202, {"accepted": 1, "duplicates": 1})
    slow = request_to("POST", "/v1/feedback", json={**event, "timestamp": now_ms() - SLOW_MS + 60_000})
    ahead = request_to("POST", "/v1/feedback", json={**event, "timestamp": now_ms() + AHEAD_MS - 60_000})
    assert (slow.status_code, ahead.status_code) == (202, 202)
    rows = service.committed("feedback")
    assert len(rows) == 4 and len({row["event_id"] for row in rows}) == 4
    (row,) = [row for row in rows if row["event_id"] == "e1"]
    assert row["value"] == 0.5 and row["timestamp"] == row["received_at"]


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"request_id": "r1"}, 404, "request_id"),
        ({"item_id": "no such item"}, 422, "item_id"),
        ({"action": "bought"}, 422, "action"),
        ({"action": ""}, 422, "action"),
        ({"timestamp": 4_000_000_000_000}, 422, "timestamp"),
        ({"timestamp": now_ms() - SLOW_MS - 60_000}, 422, "timestamp"),
        ({"timestamp": 1_700_000_000}, 422, "timestamp"),
        ({"timestamp": "now"}, 422, "timestamp"),
        ({"value": "1"}, 422, "value"),
        ({"event_id": ""}, 422, "event_id"),
        ({"item_id": "a\0"}, 422, "item_id"),
        ({"reward": 1}, 422, "reward"),
    ],
)
def test_wrong_feedback_is_refused_with_all_beside_it(
    request_to: Request, service: Service, change: dict[str, Any], status: int, field: str
):
    answer = shown(request_to)
    event = {"request_id": answer["request_id"], "item_id": answer["items"][0]["item_id"], "action": "watched"}
    assert problem(request_to("POST", "/v1/feedback", json={**event, **change})) == (status, field)
    assert problem(request_to("POST", "/v1/feedback", json=[event, {**event, **change}])) == (status, f"1.{field}")
    assert service.committed("feedback") == []


@pytest.mark.parametrize(("body", "field"), [(b"", "body"), (b"[]", "body"), (b"[1]", "0"), (b"{", "body")])
def test_feedback_that_is_none_is_refused(request_to: Request, body: bytes, field: str):
    headers = {"Content-Type": "application/json"}
    assert problem(request_to("POST", "/v1/feedback", content=body, headers=headers)) == (422, field)


def test_too_many_events_are_refused(request_to: Request):
    event = {"request_id": "r", "item_id": "i", "action": "liked"}
    assert problem(request_to("POST", "/v1/feedback", json=[event] * (MAX_EVENTS + 1))) == (422, "body")


def test_without_a_log_feedback_is_refused_and_keys_change_nothing(gateway: Gateway, ask: Request):
    api = Api(gateway, ServeConfig(home=".", max_body_bytes=1000, body_timeout_s=5))
    event = {"request_id": "r", "item_id": "i", "action": "liked"}
    assert problem(ask(api, "POST", "/v1/feedback", json=event)) == (501, None)
    body, headers = {"user_id": "a"}, {"Idempotency-Key": "k"}
    ids = {ask(api, "POST", "/v1/recommend", json=body, headers=headers).json()["request_id"] for _ in range(2)}
    assert len(ids) == 2
