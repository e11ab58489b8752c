"""Answers, feedback and idempotency keys over HTTP, without a network, and what is in the tables of them."""

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rec.bundle_policy import bundle_policy
from rec.data.event_rows import EXCLUDED, SLOW_MS, USER_FEATURES
from rec.data.events import EventTables, open_events
from rec.data.rounds import read_rounds
from rec.errors import ConfigError
from rec.ope.slate_log import slate_log
from rec.policy import slate_propensities
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.claims import Claims
from serve.committer import Committer
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.event_log import EventLog, now_ms
from serve.gateway import Gateway
from serve.guard import Guard
from serve.hands import N_AT_A_TIME
from serve.keys import KeyStore
from serve.problems import ProblemError
from serve.request_log import AHEAD_MS, RequestLog, spool_folder
from serve.schemas import MAX_EVENTS, RecommendRequest
from serve.spool import opened_locked
from serve.stages import Stages

REWARDS = {"watched": 1.0, "skipped": -2.0, "liked": 2.0}
Request = Callable[..., httpx.Response]


class Service:
    """A gateway with a log of its own, and the tables of that."""

    def __init__(self, recommender: Recommender, home: str, folder: Path, **options: Any) -> None:
        log = LogConfig(**options)
        self.config = ServeConfig(home=home, policy=PolicyConfig(epsilon=0.2, temperature=0.3), seed=0, log=log)
        self.recommender, self.home, self.folder = recommender, home, folder
        self.events: EventTables = open_events(str(folder))
        self.gateway = self.another()

    def another(self) -> Gateway:
        """Another process as it were, on the same spool."""
        max_bytes = self.config.log.max_spool_bytes
        log = EventLog(self.folder / "spool", self.events, sync_s=self.config.log.sync_s, max_bytes=max_bytes)
        claims = Claims(self.folder / "spool", self.config.log.idempotency_s)
        kept = RequestLog(log, claims, self.config, REWARDS)
        version = self.recommender.version
        arms = Arms.of_config(self.config, version, {version: Stages.here(self.recommender, self.config)})
        return Gateway(arms, Registry(Home(self.home)), kept)

    def committed(self, table: Any) -> list[dict[str, Any]]:
        committer = Committer(self.folder / "spool", self.events)
        committer.commit()
        committer.close()
        return self.events.read(table).to_pylist()


@pytest.fixture
def service(recommender: Recommender, home: str, tmp_path: Path) -> Service:
    return Service(recommender, home, tmp_path)


@pytest.fixture
def request_to(service: Service, ask: Callable[..., httpx.Response]) -> Request:
    return partial(ask, Api(service.gateway, ServeConfig(home=".")))


def problem(response: httpx.Response) -> tuple[int, str | None]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["field"]


def shown(request_to: Request, user_id: str = "a", **body: Any) -> dict[str, Any]:
    return request_to("POST", "/v1/recommend", json={"user_id": user_id, "n": 3, **body}).json()


def test_actions_are_offered_in_the_order_of_the_rewards(home: str, recommender: Recommender, tmp_path: Path):
    rewards = {f"action {place}": 1.0 for place in (3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 97, 93)}
    config = ServeConfig(home=home, rewards=rewards, log=LogConfig(spool=str(tmp_path)))
    log = RequestLog.open(config, [recommender.version])
    try:
        assert log.offered == list(rewards)
    finally:
        log.close()


def test_an_answer_is_logged_as_it_was_given(request_to: Request, service: Service, user_id: str):
    body = {"context": {"place": "home", "n": 1.5}, "session_id": "s1", "exclude": ["x", "y"], "n": 5}
    answer = shown(request_to, user_id, **body)
    (row,) = service.committed("requests")
    impressions = service.committed("impressions")
    assert row["request_id"] == answer["request_id"] and row["policy_version"] == answer["policy_version"]
    assert (row["user_id"], row["session_id"], row["k"]) == (user_id, "s1", 5)
    assert (row["epsilon"], row["temperature"], row["degraded"]) == (0.2, 0.3, False)
    assert json.loads(row["context"]) == {**body["context"], EXCLUDED: ["x", "y"]}
    assert abs(row["timestamp"] - now_ms()) < 60_000
    for item, impression in zip(answer["items"], impressions, strict=True):
        n_eligible = impression.pop("n_eligible")
        assert impression == {"request_id": answer["request_id"]} | {
            name: item[name] for name in ("position", "item_id", "source", "propensity")
        }
    seen = service.recommender.hydrate([user_id]).excluded
    assert n_eligible == service.recommender.n_items - len(seen) - 4
    states = service.recommender.hydrate([user_id])
    history = states.history[0][states.history[0] >= 0]
    assert row["history"] == service.recommender.item_ids[history].tolist()


def test_logged_propensities_follow_from_the_logged_candidates(request_to: Request, service: Service, user_id: str):
    """Computed again from the log alone, by the function that estimates take, to the last digits."""
    for number in range(40):
        shown(request_to, user_id if number % 2 else "nobody", n=4)
    requests = {row["request_id"]: row for row in service.committed("requests")}
    slates: dict[str, list[dict[str, Any]]] = {}
    for row in service.committed("impressions"):
        slates.setdefault(row["request_id"], []).append(row)
    assert len(slates) == 40
    sources = set()
    for request_id, slate in slates.items():
        row = requests[request_id]
        code = {item: number for number, item in enumerate(row["candidates"])}
        slate.sort(key=lambda each: each["position"])
        items = [code.setdefault(each["item_id"], len(code)) for each in slate]
        expected = slate_propensities(
            np.array([row["candidate_scores"]]),
            np.arange(len(row["candidates"]))[None],
            np.array([items]),
            np.array([[each["n_eligible"] for each in slate]]),
            epsilon=row["epsilon"],
            temperature=row["temperature"],
        )
        assert [each["propensity"] for each in slate] == pytest.approx(expected[0].tolist(), rel=1e-12)
        sources |= {each["source"] for each in slate}
        assert len(row["candidate_sources"]) == len(row["candidates"]) == len(set(row["candidates"]))
    assert "explore" in sources and len(sources) >= 2


def test_features_of_a_user_without_a_row_choose_and_are_logged(
    request_to: Request, service: Service, user_id: str, recommender: Recommender
):
    """The bundle, asked again with what the log says, has the candidates and scores that it had."""
    row = recommender.snapshot.user_table.set_index("user_id").loc[user_id]
    told = {name: row[name] for name in row.index}
    answers = [
        shown(request_to, name, **body)
        for name, body in (
            ("stranger", {"user_features": told}),
            (user_id, {"user_features": told}),
            ("nobody", {}),
            ("guest", {"user_features": told, "exclude": ["v1"]}),
        )
    ]
    assert [answer["user_known"] for answer in answers] == [False, True, False, False]
    logged = {row["user_id"]: row for row in service.committed("requests")}
    assert json.loads(logged["stranger"]["context"]) == {USER_FEATURES: told}
    assert json.loads(logged[user_id]["context"]) == json.loads(logged["nobody"]["context"]) == {}
    assert json.loads(logged["guest"]["context"]) == {USER_FEATURES: told, EXCLUDED: ["v1"]}
    assert logged["stranger"]["candidate_scores"] != logged["nobody"]["candidate_scores"]
    log = slate_log(read_rounds(service.events, rewards=REWARDS, now_ms=now_ms() + 2 * 86_400_000))
    policy = bundle_policy(recommender, log, epsilon=log.logging.epsilon, temperature=log.logging.temperature)
    np.testing.assert_array_equal(policy.candidates, log.logging.candidates)
    np.testing.assert_array_equal(policy.scores, log.logging.scores)


def test_who_is_asked_for_beside_others_is_answered_as_alone(
    request_to: Request, service: Service, recommender: Recommender
):
    """Of 60 who wait together all get candidates and scores that are theirs, to the last bit, whatever the others are:
    users never seen, slates of other lengths, requests that are refused."""
    users = [*map(str, recommender.snapshot.user_ids[:40]), *(f"stranger-{number}" for number in range(20))]
    bodies = [RecommendRequest(user_id=user, n=3 + row % 2, exclude=("v1",)) for row, user in enumerate(users)]
    bodies.insert(20, RecommendRequest(user_id="stranger", user_features={"height": 1.8}))

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*map(service.gateway.recommend, bodies), return_exceptions=True)

    answers = asyncio.run(all_at_once())
    assert isinstance(answers.pop(20), ProblemError)
    assert [len(answer.items) for answer in answers] == [3 + row % 2 for row in range(60)]
    together = {row["user_id"]: row for row in service.committed("requests")}
    assert len(together) == 60
    for user, answer in zip(users, answers, strict=True):
        states = recommender.hydrate([user], exclude=[["v1"]])
        candidates = recommender.retrieve(states)
        found = candidates.items[0][candidates.items[0] >= 0]
        row = together[user]
        assert row["request_id"] == answer.request_id and answer.user_known == recommender.user_known(user)
        assert row["candidates"] == recommender.item_ids[found].tolist()
        assert row["candidate_scores"] == recommender.rank(states, candidates)[0, : len(found)].tolist()


@pytest.mark.parametrize(
    "body, field",
    [
        ({"user_features": {"height": 1.8}}, "user_features.height"),
        ({"user_features": {"age": ["old"]}}, "user_features.age"),
        ({"context": {EXCLUDED: ["v1"]}}, "context"),
        ({"context": {USER_FEATURES: {}}}, "context"),
    ],
)
def test_features_that_users_do_not_have_and_names_of_the_log_are_refused(
    request_to: Request, service: Service, body: dict[str, Any], field: str
):
    assert problem(request_to("POST", "/v1/recommend", json={"user_id": "stranger", **body})) == (422, field)
    assert not service.committed("requests")


def test_the_log_is_read_as_rounds(request_to: Request, service: Service, user_id: str):
    for _ in range(5):
        answer = shown(request_to, user_id)
        first = answer["items"][0]["item_id"]
        request_to(
            "POST", "/v1/feedback", json={"request_id": answer["request_id"], "item_id": first, "action": "liked"}
        )
    service.committed("feedback")
    later = now_ms() + 2 * 86_400_000
    rounds = read_rounds(service.events, rewards=REWARDS, now_ms=later)
    assert rounds.reward.tolist() == [2.0, 0.0, 0.0] * 5 and rounds.dropped == {}
    log = slate_log(rounds)
    assert len(log) == 5 and log.n_without == log.n_incomplete == 0


def test_candidates_are_sampled(recommender: Recommender, home: str, tmp_path: Path, ask: Request):
    service = Service(recommender, home, tmp_path, candidate_share=0.5)
    request_to = partial(ask, Api(service.gateway, ServeConfig(home=".", max_body_bytes=10_000)))
    for _ in range(60):
        shown(request_to)
    rows = service.committed("requests")
    n = sum(row["candidates"] is not None for row in rows)
    assert 10 < n < 50
    assert all((row["candidates"] is None) == (row["candidate_scores"] is None) for row in rows)


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


def keyed(service: Service, key: str, gateway: Gateway | None = None, **body: Any) -> Any:
    request = RecommendRequest(user_id="a", n=5, **body)
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


def test_a_key_is_held_until_its_answer_is_recorded_though_nobody_waits_for_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    """The client is gone, or its time is over, while a thread looks whether the answer is in the log."""
    first = asyncio.run(keyed(service, "k"))
    began, go_on = threading.Event(), threading.Event()
    answered_again = EventLog.answered_again

    def slow(*args: Any) -> None:
        began.set()
        assert go_on.wait(600)
        answered_again(*args)

    async def cancelled() -> None:
        asked = asyncio.create_task(keyed(service, "k"))
        assert await asyncio.to_thread(began.wait, 600)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        (path,) = [path for path in (service.folder / "spool" / "keys").rglob("*") if path.is_file()]
        assert opened_locked(path, os.O_RDONLY) is None, "it is held"
        go_on.set()
        assert await keyed(service, "k") == first

    monkeypatch.setattr(EventLog, "answered_again", slow)
    asyncio.run(cancelled())
    assert len(service.committed("requests")) == 1


def test_tables_that_hang_hold_up_only_who_needs_them(service: Service, ask: Request, monkeypatch: pytest.MonkeyPatch):
    """Feedback on requests that nobody knows; beside it feedback on what was just answered, and health."""
    go_on = threading.Event()
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
            assert (await client.post("/v1/feedback", json=told)).status_code == HTTPStatus.ACCEPTED
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


def test_every_route_that_asks_others_has_a_deadline(service: Service, ask: Request):
    """A stage, a storage or a disk that does not answer makes a 503 of it."""
    hanging = threading.Event()

    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    (arm,) = service.gateway._arms.all()
    service.gateway._arms.switch(arm.version, replace(arm.stages, item=never, users=never))
    log = service.gateway._log
    assert log is not None
    log._log.unknown = lambda *_: hanging.wait(600)  # pyright: ignore[reportAttributeAccessIssue]
    service.gateway.models = lambda: hanging.wait(600)  # pyright: ignore[reportAttributeAccessIssue]
    api = Api(service.gateway, ServeConfig(home=".", deadline_s=0.2))
    event = {"request_id": "r", "item_id": "i", "action": "liked"}
    try:
        asked = [ask(api, "GET", path) for path in ("/v1/items/i", "/page/setup.json", "/v1/models")]
        for response in (*asked, ask(api, "POST", "/v1/feedback", json=event)):
            assert problem(response) == (503, None) and int(response.headers["retry-after"]) > 0
    finally:
        hanging.set()


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


def test_a_key_that_was_torn_is_new(service: Service):
    first = asyncio.run(keyed(service, "k1"))
    (path,) = [path for path in (service.folder / "spool" / "keys").rglob("*") if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1])
    assert asyncio.run(keyed(service, "k1")) != first


def test_keys_are_forgotten_after_their_time(tmp_path: Path):
    clock = [1_000_000.0]
    claims = Claims(tmp_path, 100, clock=lambda: clock[0])

    async def content(keep: bytes | None = None) -> bytes | None:
        async with claims.claim("k") as claim:
            if keep is not None:
                claim.keep(keep)
            return claim.content

    assert asyncio.run(content(b"answer")) is None
    for seconds in (0, 50, 99):
        clock[0] = 1_000_000.0 + seconds
        claims.sweep()
        assert asyncio.run(content()) == b"answer"
    clock[0] = 1_000_000.0 + 201
    assert asyncio.run(content()) is None
    claims.sweep()
    assert len(list((tmp_path / "keys").iterdir())) == 1


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


def test_the_spool_is_beside_the_tables_or_has_to_be_named(tmp_path: Path):
    assert spool_folder(ServeConfig(home=str(tmp_path))) == tmp_path / "spool"
    assert spool_folder(ServeConfig(home="s3://bucket/home", log=LogConfig(spool="/spool"))) == Path("/spool")
    with pytest.raises(ConfigError, match=r"log\.spool"):
        spool_folder(ServeConfig(home="s3://bucket/home?region=eu-west-1"))
