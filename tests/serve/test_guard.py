"""Who gets in: keys and roles at every route, revocation while the service runs, limits that say when to come again."""

import asyncio
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from rec.errors import BundleError, ConfigError
from rec.storage import Home
from serve.api import Api
from serve.app import start
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.guard import Guard
from serve.keys import FOLDER, KeyStore, Role

Request = Callable[..., httpx.Response]
BODY = {"user_id": "a"}
EVENT = {"request_id": "r", "item_id": "i", "action": "liked"}
# What a key of the role opens answers, if only to say that there is no log, or no such item.
ROUTES: dict[tuple[str, str], tuple[Role, int]] = {
    ("POST", "/v1/recommend"): ("recommend", 200),
    ("GET", "/v1/items/nothing"): ("recommend", 404),
    ("POST", "/v1/feedback"): ("feedback", 501),
    ("GET", "/v1/models"): ("admin", 200),
    ("GET", "/page/setup.json"): ("recommend", 200),
    ("GET", "/metrics"): ("admin", 200),
}
OPEN = ("/health/live", "/health/ready", "/openapi.json", "/")


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(Home(tmp_path))


def config_of(tmp_path: Path, **values: Any) -> ServeConfig:
    return ServeConfig.model_validate({"home": str(tmp_path), **values})


def client(gateway: Any, guard: Guard, ask: Request, **limits: Any) -> Request:
    api = Api(gateway, ServeConfig(**{"home": ".", "max_body_bytes": 10_000, **limits}), guard)

    def asked(method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        body = {"/v1/recommend": {"json": BODY}, "/v1/feedback": {"json": EVENT}}.get(path, {})
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return ask(api, method, path, headers=headers, **{**body, **more})

    return asked


@pytest.fixture
def guarded(gateway: Gateway, ask: Request, store: KeyStore, tmp_path: Path) -> Request:
    return client(gateway, Guard(config_of(tmp_path, keys="required")), ask)


def test_every_route_but_health_and_documentation_takes_a_role(gateway: Gateway):
    """A route that is added without one fails here."""
    api = Api(gateway, ServeConfig(home=".", max_body_bytes=1, body_timeout_s=1))
    paths = {route.path for route in api._documented.routes}  # pyright: ignore[reportAttributeAccessIssue]
    guarded = {path.replace("nothing", "{item_id:path}") for _, path in ROUTES}
    assert paths - guarded == {*OPEN, "/docs", "/docs/oauth2-redirect", "/redoc", "/page/{name}"}


def test_each_role_opens_its_routes_and_no_other(gateway: Gateway, ask: Request, store: KeyStore, tmp_path: Path):
    keys = {role: store.create(role, (role,), now_ms=1)[1] for role in get_args(Role)}
    guarded = client(gateway, Guard(config_of(tmp_path)), ask)
    for (method, path), (needed, answered) in ROUTES.items():
        for role, key in keys.items():
            expected = answered if role in (needed, "admin") else 403
            assert guarded(method, path, key).status_code == expected, (path, role)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_there_is_nothing(guarded: Request, method: str, path: str):
    for key in (None, "", "tandem_00000000_" + "A" * 43):
        response = guarded(method, path, key)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
    assert guarded(method, path, None, content=b"{").status_code == 401, "before anything is read"


@pytest.mark.parametrize("path", OPEN)
def test_health_and_documentation_need_no_key(guarded: Request, path: str):
    assert guarded("GET", path).status_code == 200


def test_a_key_that_is_revoked_and_one_that_is_new_count_after_a_refresh(
    gateway: Gateway, ask: Request, store: KeyStore, tmp_path: Path
):
    guard = Guard(config_of(tmp_path))
    asked = partial(client(gateway, guard, ask), "POST", "/v1/recommend")
    assert asked().status_code == 200, "no key in the home, and loopback alone"
    key, text = store.create("web", ("recommend",), now_ms=1)
    guard.refresh()
    assert (asked().status_code, asked(text).status_code) == (401, 200)
    store.revoke(key.id, now_ms=2)
    guard.refresh()
    assert (asked().status_code, asked(text).status_code) == (401, 401), "the last key revoked opens nothing to anybody"


def test_a_damaged_key_closes_and_a_storage_that_fails_changes_nothing(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    guard = Guard(config_of(tmp_path))
    assert not guard.closed
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "00000000.json").write_text("{")
    guard.refresh()
    assert guard.closed and guard.locked

    _, text = store.create("web", ("recommend",), now_ms=1)
    guard.refresh()
    from serve import guard as module

    monkeypatch.setattr(module, "REFRESH_S", 0.001)

    def away(*_args: object) -> None:
        raise BundleError("the storage is away")

    monkeypatch.setattr(Home, "children", away)

    async def followed() -> None:
        task = asyncio.create_task(guard.follow())
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(followed())
    assert guard.admit(f"Bearer {text}", "recommend")


@pytest.mark.parametrize(
    ("values", "closed"),
    [
        ({}, False),
        ({"keys": "required"}, True),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "keys": "off"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_keys_are_needed_wherever_others_may_come(tmp_path: Path, values: dict[str, Any], closed: bool):
    assert Guard(config_of(tmp_path, **values)).closed is closed


def test_a_service_for_others_does_not_start_without_a_key(home: str):
    with pytest.raises(ConfigError, match="tandem keys create"):
        start(ServeConfig(home=home, host="0.0.0.0"))


def test_too_many_requests_are_told_when_to_come_again(gateway: Gateway, ask: Request, store: KeyStore, tmp_path: Path):
    _, one = store.create("one", ("recommend",), now_ms=1)
    _, two = store.create("two", ("recommend",), now_ms=1)
    asked = partial(
        client(gateway, Guard(config_of(tmp_path, requests_per_s=0.01, burst=3)), ask), "POST", "/v1/recommend"
    )
    assert [asked(one).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = asked(one)
    assert 50 < int(refused.headers["retry-after"]) <= 100
    assert asked(two).status_code == 200
    assert client(gateway, Guard(config_of(tmp_path)), ask)("GET", "/health/ready").status_code == 200


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/feedback"])
@pytest.mark.parametrize("given", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_what_any_page_may_send_without_asking_is_refused(gateway: Gateway, ask: Request, path: str, given: str | None):
    """A browser sends JSON for a page of another site only where the service allows it, and it never does."""
    headers = {} if given is None else {"Content-Type": given}
    api = Api(gateway, ServeConfig(home="."))
    refused = ask(api, "POST", path, content=json.dumps(BODY), headers=headers)
    assert (refused.status_code, refused.json()["field"]) == (415, "content-type")
    named = ask(api, "POST", path, content="{", headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert named.status_code == 422
    assert ask(api, "OPTIONS", path, headers={"Origin": "http://evil.example"}).status_code == 405


@pytest.mark.parametrize(
    ("config", "known", "unknown"),
    [
        ({}, ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1"],
         ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80:80",
          "evil.example@localhost", "", "[::1", "[::1]:8000", "192.168.0.1"]),
        ({"hosts": ["2001:db8::1"]}, ["[2001:db8::1]:8000", "localhost"], ["[2001:db8::2]:8000"]),
        ({"hosts": ["shop.example"]}, ["shop.example", "Shop.Example:443", "localhost"], ["a.shop.example"]),
        ({"host": "0.0.0.0"}, ["anything.example", "192.168.0.1:8000"], []),
        ({"host": "0.0.0.0", "hosts": ["shop.example"]}, ["shop.example", "localhost"], ["anything.example"]),
    ],
)  # fmt: skip
def test_loopback_answers_by_its_names_alone(
    gateway: Gateway, ask: Request, config: dict[str, Any], known: list[str], unknown: list[str]
):
    api = Api(gateway, ServeConfig.model_validate({"home": ".", **config}))
    for path in ("/health/live", "/v1/models", "/"):
        assert {ask(api, "GET", path, headers={"Host": name}).status_code for name in known} == {200}
        for name in unknown:
            refused = ask(api, "GET", path, headers={"Host": name})
            assert (refused.status_code, refused.json()["field"]) == (421, "host"), name
    for name in unknown:
        assert ask(api, "POST", "/v1/recommend", json=BODY, headers={"Host": name}).status_code == 421


def test_keys_that_are_lost_open_nothing(
    gateway: Gateway, ask: Request, store: KeyStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    guard = Guard(config_of(tmp_path))
    asked = client(gateway, guard, ask)
    assert "degraded" not in asked("GET", "/health/ready").json()
    _, text = store.create("web", ("recommend",), now_ms=1)
    guard.refresh()
    shutil.rmtree(tmp_path / FOLDER)
    for _ in range(3):
        guard.refresh()
        assert [asked("POST", "/v1/recommend", key).status_code for key in (None, text)] == [401, 401]
    assert asked("GET", "/health/ready").json()["degraded"] == ["keys"]
    assert sum("no key opens the service" in record.message for record in caplog.records) == 1
    _, text = store.create("web", ("recommend",), now_ms=2)
    guard.refresh()
    assert asked("POST", "/v1/recommend", text).status_code == 200
    assert "degraded" not in asked("GET", "/health/ready").json()


class SlowGateway:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def recommend(self, *_: object) -> None:
        await self.go_on.wait()
        raise RuntimeError


def test_too_late_is_503_and_so_is_too_much_at_once(ask: Request):
    gateway: Any = SlowGateway()
    late = ask(Api(gateway, ServeConfig(home=".", deadline_s=0.05)), "POST", "/v1/recommend", json=BODY)
    assert late.status_code == 503 and int(late.headers["retry-after"]) > 0

    async def crowded() -> list[int]:
        api = Api(gateway, ServeConfig(home=".", deadline_s=60, max_ongoing_requests=2))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as http:
            first = [asyncio.create_task(http.post("/v1/recommend", json=BODY)) for _ in range(2)]
            while api._admission.n_ongoing < 2:
                await asyncio.sleep(0)
            beside = await http.post("/v1/recommend", json=BODY)
            live = await http.get("/health/live")
            gateway.go_on.set()
            await asyncio.gather(*first)
            assert int(beside.headers["retry-after"]) > 0 and api._admission.n_ongoing == 0
            return [beside.status_code, live.status_code]

    gateway.go_on = asyncio.Event()
    assert asyncio.run(crowded()) == [503, 200]


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/recommend"), ("GET", "/health/live"), ("GET", "/nothing")])
def test_every_answer_has_secure_headers(guarded: Request, method: str, path: str):
    headers = guarded(method, path).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_documentation_shows_the_keys(guarded: Request):
    documented = guarded("GET", "/openapi.json").json()
    assert "HTTPBearer" in documented["components"]["securitySchemes"]
    for method, path in ROUTES.keys() - {("GET", "/page/setup.json")}:
        operation = documented["paths"][path.replace("nothing", "{item_id}")][method.lower()]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {"401", "403", "429"} <= set(operation["responses"])
