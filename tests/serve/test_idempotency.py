"""Idempotency keys: one answer each, logged once, whatever fails when."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from rec.cli.events import ForgetOptions, run_forget
from rec.recommender import Recommender
from rec.storage import Home
from serve.api import Api
from serve.claims import Claims
from serve.config import ServeConfig
from serve.event_log import EventLog
from serve.gateway import Gateway
from serve.guard import Guard
from serve.keys import KeyStore
from serve.schemas import RecommendRequest
from serve.spool import SpoolWriter, opened_locked, segments
from tests.serve.services import Request, Service, problem


@pytest.fixture
def request_to(service: Service, ask: Callable[..., httpx.Response]) -> Request:
    return partial(ask, Api(service.gateway, ServeConfig(home=".")))


def keyed(service: Service, key: str, gateway: Gateway | None = None, **body: Any) -> Any:
    request = RecommendRequest(**{"user_id": "a", "n": 5, **body})
    return (gateway or service.gateway).recommend(request, key)


def test_a_key_gets_one_answer_everywhere_and_is_logged_once(service: Service):
    async def answers() -> list[Any]:
        gateways = [service.gateway, service.another(), service.another()]
        together = [keyed(service, "k1", gateway) for gateway in gateways for _ in range(3)]
        return await asyncio.gather(*together)

    same = asyncio.run(answers())
    other = asyncio.run(keyed(service, "k2"))
    assert all(answer == same[0] for answer in same) and other != same[0]
    assert sorted(row["request_id"] for row in service.committed("requests")) == sorted(
        [same[0].request_id, other.request_id]
    )
    assert asyncio.run(keyed(service, "k1", service.another())) == same[0]
    assert len(service.committed("requests")) == 2
    assert len(service.committed("impressions")) == 10


def test_the_same_key_of_two_clients_is_two_keys(recommender: Recommender, home: str, tmp_path: Path, ask: Request):
    """Each gets its own slate, and neither learns what the other asked for."""
    service = Service(recommender, home, tmp_path)
    config = ServeConfig(home=str(tmp_path), keys="required")
    store = KeyStore(Home(str(tmp_path)))
    keys = [store.create(name, ("recommend",), now_ms=1)[1] for name in ("one", "two")]
    api = Api(service.gateway, config, Guard(config))

    def asked(key: str, user_id: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "1"}
        return ask(api, "POST", "/v1/recommend", json={"user_id": user_id}, headers=headers)

    one, two = asked(keys[0], "a"), asked(keys[1], "b")
    assert one.status_code == two.status_code == HTTPStatus.OK
    assert asked(keys[0], "a").json() == one.json() != two.json()
    assert problem(asked(keys[0], "b")) == (422, "idempotency-key")


@pytest.mark.parametrize("when_full", ["answer", "refuse"])
@pytest.mark.parametrize("fails", ["mkdir", "open", "write", "room"])
def test_a_key_that_cannot_be_kept(
    recommender: Recommender, home: str, tmp_path: Path, ask: Request, monkeypatch: pytest.MonkeyPatch, fails: str,
    when_full: str,
):  # fmt: skip
    service = Service(recommender, home, tmp_path, when_full=when_full, max_key_bytes=1 if fails == "room" else 2**30)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on the device")

    headers, body = {"Idempotency-Key": "1"}, {"user_id": "a"}
    place = {
        "mkdir": "serve.claims.Path.mkdir",
        "open": "serve.claims.opened_locked",
        "write": "serve.claims.os.pwrite",
    }
    if fails == "room":
        asyncio.run(keyed(service, "before"))
        service.gateway = service.another()
    api = Api(service.gateway, ServeConfig(home="."))
    with monkeypatch.context() as patch:
        if fails in place:
            patch.setattr(place[fails], full)
            if fails == "write":
                patch.setattr(EventLog, "answered", lambda *_: None)  # it writes by the same function
        response = ask(api, "POST", "/v1/recommend", json=body, headers=headers)
    if when_full == "answer":
        assert response.status_code == HTTPStatus.OK
    else:
        assert problem(response) == (503, None) and int(response.headers["retry-after"]) > 0
    if fails == "room":
        assert asyncio.run(keyed(service, "before")) == asyncio.run(keyed(service, "before")), "it is kept still"
    else:
        again = [ask(api, "POST", "/v1/recommend", json=body, headers=headers).json() for _ in range(2)]
        assert again[0] == again[1]


def test_a_stage_that_is_late_is_no_fault_of_the_key(service: Service):
    async def late() -> Any:
        raise TimeoutError("a stage")

    log = service.gateway._log
    assert log is not None
    with pytest.raises(TimeoutError, match="a stage"):
        asyncio.run(log.once(RecommendRequest(user_id="a", n=5), "k", late))


async def give_up(service: Service, began: threading.Event) -> None:
    """Asks for an answer with the only key there is, and gives up once it is being recorded: the key is held then."""
    asked = asyncio.create_task(keyed(service, "k"))
    assert await asyncio.to_thread(began.wait, 600)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    (path,) = [path for path in (service.folder / "spool" / "keys").rglob("*") if path.is_file()]
    assert opened_locked(path, os.O_RDONLY) is None


def test_a_key_is_held_until_its_answer_is_recorded_though_nobody_waits_for_it(
    service: Service, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    """The client is gone, or its time is over, while a thread looks whether the answer is in the log."""
    first = asyncio.run(keyed(service, "k"))
    began = threading.Event()
    answered_again = EventLog.answered_again

    def slow(*args: Any) -> None:
        began.set()
        assert go_on.wait(600)
        answered_again(*args)

    async def cancelled() -> None:
        await give_up(service, began)
        go_on.set()
        assert await keyed(service, "k") == first

    monkeypatch.setattr(EventLog, "answered_again", slow)
    asyncio.run(cancelled())
    assert len(service.committed("requests")) == 1


def test_an_answer_that_waits_for_the_disk_keeps_nobody_else_waiting_and_holds_its_key(
    recommender: Recommender, home: str, tmp_path: Path, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    """It is on the disk before it is sent, and whoever sends it again gets it once it is, and no second one."""
    service = Service(recommender, home, tmp_path, sync_s=0)
    began, sync = threading.Event(), SpoolWriter.sync

    def slow(writer: SpoolWriter, ticket: int | None = None) -> None:
        if ticket is not None:
            began.set()
            assert threading.current_thread() is not threading.main_thread(), "all others wait"
            assert go_on.wait(600)
        sync(writer, ticket)

    async def cancelled() -> None:
        await give_up(service, began)
        go_on.set()
        assert await keyed(service, "k") == await keyed(service, "k")

    monkeypatch.setattr(SpoolWriter, "sync", slow)
    asyncio.run(cancelled())
    assert len(service.committed("requests")) == 1


def test_a_key_cannot_be_used_for_another_request(request_to: Request, service: Service):
    headers = {"Idempotency-Key": "k1"}
    first = request_to("POST", "/v1/recommend", json={"user_id": "a"}, headers=headers)
    assert first.json() == request_to("POST", "/v1/recommend", json={"user_id": "a"}, headers=headers).json()
    assert problem(request_to("POST", "/v1/recommend", json={"user_id": "b"}, headers=headers))[0] == 422
    long = request_to("POST", "/v1/recommend", json={"user_id": "a"}, headers={"Idempotency-Key": "k" * 256})
    assert problem(long) == (422, "idempotency-key")


def test_a_server_killed_between_key_and_log_leaves_what_the_next_needs(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    """Killed before the log had the answer, which nobody got then: the next logs it, and gives it out."""

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "answered", killed)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(keyed(service, "k1"))
    assert service.committed("requests") == []
    another = service.another()
    first, second = (asyncio.run(keyed(service, "k1", another)) for _ in range(2))
    assert first == second
    assert [row["request_id"] for row in service.committed("requests")] == [first.request_id]


def test_who_is_forgotten_is_not_logged_again_under_a_key_of_before(service: Service):
    """A retry is a request of its own; the keys of others are kept, and so is one that says nothing."""
    first, other = asyncio.run(keyed(service, "k1")), asyncio.run(keyed(service, "k2", user_id="b"))
    log = service.gateway._log
    assert log is not None
    log.close()
    assert len(service.committed("requests")) == 2
    spool = service.folder / "spool"
    for segment in segments(spool):
        segment.path.unlink()
    (spool / "keys" / "0").mkdir()
    (spool / "keys" / "0" / "empty").touch()
    told = run_forget(ForgetOptions(home=str(service.folder), user="a", spool=str(spool)))
    another = service.another()
    again = asyncio.run(keyed(service, "k1", another))
    assert again == asyncio.run(keyed(service, "k1", another)) and again.request_id != first.request_id
    assert asyncio.run(keyed(service, "k2", another, user_id="b")) == other
    logged = {row["request_id"] for row in service.committed("requests")}
    assert logged == {other.request_id, again.request_id}
    assert first.request_id not in {row["request_id"] for row in service.committed("impressions")}
    assert told["keys"] == 1


def test_a_key_that_was_torn_is_new(service: Service):
    first = asyncio.run(keyed(service, "k1"))
    (path,) = [path for path in (service.folder / "spool" / "keys").rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1])
    assert asyncio.run(keyed(service, "k1")) != first


async def kept(claims: Claims, answer: bytes | None = None) -> bytes | None:
    """What is kept with a key, which then gets an answer where one is given."""
    async with claims.claim("k") as claim:
        if answer is not None:
            claim.keep(answer)
        return claim.content


def test_keys_are_forgotten_after_their_time(tmp_path: Path):
    clock = [1_000_000.0]
    claims = Claims(tmp_path, 100, clock=lambda: clock[0])

    assert asyncio.run(kept(claims, b"answer")) is None
    for seconds in (0, 50, 99):
        clock[0] = 1_000_000.0 + seconds
        claims.sweep()
        assert asyncio.run(kept(claims)) == b"answer"
    clock[0] = 1_000_000.0 + 201
    assert asyncio.run(kept(claims)) is None
    claims.sweep()
    assert len(list((tmp_path / "keys").iterdir())) == 1


def test_a_key_whose_first_try_failed_is_remembered_from_its_answer_on(tmp_path: Path):
    clock = [1_000_000.0]
    claims = Claims(tmp_path, 100, clock=lambda: clock[0])

    assert asyncio.run(kept(claims)) is None
    clock[0] += 199
    assert asyncio.run(kept(claims, b"answer")) is None
    clock[0] += 100
    claims.sweep()
    assert asyncio.run(kept(claims)) == b"answer"
