"""Disks, tables and stages that are slow, full or gone: who is held up, and what people are told."""

import asyncio
import errno
import threading
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from rec.data.events import EventTables
from rec.recommender import Recommender
from serve.api import Api
from serve.config import ServeConfig
from serve.hands import N_AT_A_TIME
from tests.serve.services import Request, Service, problem, shown


def test_tables_that_hang_hold_up_only_who_needs_them(
    service: Service, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    """Feedback on requests that nobody knows; beside it the first there is, on what was just answered, and health."""
    read = EventTables.read

    def hangs(*args: Any, **options: Any) -> Any:
        if args[1] == "impressions":
            assert go_on.wait(600)
        return read(*args, **options)

    api = Api(service.gateway, ServeConfig(home=".", deadline_s=600))
    event = {"item_id": "i", "action": "liked"}

    async def answers() -> tuple[list[httpx.Response], list[httpx.Response]]:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=600) as client:
            known = (await client.post("/v1/recommend", json={"user_id": "a", "n": 3})).json()
            told = {**event, "request_id": known["request_id"], "item_id": known["items"][0]["item_id"]}
            monkeypatch.setattr(EventTables, "read", hangs)
            asked = [client.post("/v1/feedback", json={**event, "request_id": f"x{n}"}) for n in range(N_AT_A_TIME + 9)]
            unknown = [asyncio.create_task(each) for each in asked]
            refused, _ = await asyncio.wait(unknown, return_when=asyncio.FIRST_COMPLETED)
            beside = [await client.post("/v1/feedback", json=told), await client.get("/health/ready")]
            assert not all(each.done() for each in unknown) and refused
            go_on.set()
            return [await each for each in unknown], beside

    unknown, (feedback, ready) = asyncio.run(answers())
    assert feedback.status_code == HTTPStatus.ACCEPTED and ready.status_code == HTTPStatus.OK
    statuses = [response.status_code for response in unknown]
    assert statuses.count(503) == 9 and statuses.count(404) == N_AT_A_TIME


def test_every_route_that_asks_others_has_a_deadline(service: Service, ask: Request, go_on: threading.Event):
    """A stage, a storage or a disk that does not answer makes a 503 of it."""

    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    (arm,) = service.gateway._arms.all()
    service.gateway._arms.switch(arm.version, replace(arm.stages, item=never, users=never))
    log = service.gateway._log
    assert log is not None
    log._log.unknown = lambda *_: go_on.wait(600)  # pyright: ignore[reportAttributeAccessIssue]
    service.gateway.models = lambda: go_on.wait(600)  # pyright: ignore[reportAttributeAccessIssue]
    api = Api(service.gateway, ServeConfig(home=".", deadline_s=0.2))
    event = {"request_id": "r", "item_id": "i", "action": "liked"}
    asked = [ask(api, "GET", path) for path in ("/v1/items/i", "/page/setup.json", "/v1/models")]
    for response in (*asked, ask(api, "POST", "/v1/feedback", json=event)):
        assert problem(response) == (503, None) and int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("when_full", ["answer", "refuse"])
def test_a_full_spool_pushes_back(recommender: Recommender, home: str, tmp_path: Path, ask: Request, when_full: str):
    service = Service(recommender, home, tmp_path, max_spool_bytes=1, when_full=when_full)
    request_to = partial(ask, Api(service.gateway, ServeConfig(home=".", max_body_bytes=10_000)))
    answer = shown(request_to)
    (tmp_path / "spool" / "x-00000000.spool").write_bytes(b"  ")
    api = Api(service.another(), ServeConfig(home=".", max_body_bytes=10_000))
    event = {"request_id": answer["request_id"], "item_id": answer["items"][0]["item_id"], "action": "liked"}
    feedback = ask(api, "POST", "/v1/feedback", json=event)
    assert problem(feedback) == (503, None) and int(feedback.headers["retry-after"]) > 0
    recommended = ask(api, "POST", "/v1/recommend", json={"user_id": "a"})
    ready = ask(api, "GET", "/health/ready")
    if when_full == "answer":
        assert recommended.status_code == HTTPStatus.OK
        assert (ready.status_code, ready.json()["degraded"]) == (HTTPStatus.OK, ["log", "tables"])
    else:
        assert problem(recommended) == (503, None) and int(recommended.headers["retry-after"]) > 0
        assert problem(ready) == (503, None)


@pytest.mark.parametrize("when_full", ["answer", "refuse"])
def test_a_disk_that_takes_nothing_is_found_before_anybody_asks(
    recommender: Recommender, home: str, tmp_path: Path, ask: Request, monkeypatch: pytest.MonkeyPatch, when_full: str
):
    service = Service(recommender, home, tmp_path, when_full=when_full)
    ready = partial(ask, Api(service.gateway, ServeConfig(home=".")), "GET", "/health/ready")
    assert ready().json()["degraded"] == ["tables"], "nobody takes the log into them here"

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr("serve.event_log.os.fsync", full)
        response = ready()
    if when_full == "answer":
        assert (response.status_code, response.json()["degraded"]) == (HTTPStatus.OK, ["log", "tables"])
    else:
        assert problem(response) == (503, None)
    assert "log" not in ready().json()["degraded"] and not list((tmp_path / "spool").glob("*.probe"))
