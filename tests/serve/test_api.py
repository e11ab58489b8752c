"""The HTTP interface without a network: answers, errors that name the field, and nothing about the inside."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from rec.recommender import Recommender
from serve.api import Api
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.schemas import MAX_EXCLUDED, RecommendResponse

Request = Callable[..., httpx.Response]
JSON = {"Content-Type": "application/json"}


def assert_problem(response: Any, status: int, field: str | None) -> dict[str, Any]:
    problem = response.json()
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "field"}
    assert (problem["status"], problem["field"]) == (status, field)
    return problem


def test_a_known_user_gets_a_slate_as_documented(request_to: Request, user_id: str, recommender: Recommender):
    response = request_to("POST", "/v1/recommend", json={"user_id": user_id})
    answer = RecommendResponse.model_validate(response.json(), extra="forbid")
    assert response.headers["content-type"] == "application/json"
    assert answer.policy_version == recommender.version
    assert (answer.user_known, answer.short, answer.degraded) == (True, False, False)
    assert [item.position for item in answer.items] == list(range(10))
    assert len({item.item_id for item in answer.items}) == 10
    assert all(0 < item.propensity <= 1 for item in answer.items)
    assert answer.stages is None


def test_requests_have_ids_of_their_own(request_to: Request, user_id: str):
    ids = {
        request_to("POST", "/v1/recommend", json={"user_id": user_id, "n": 1}).json()["request_id"] for _ in range(5)
    }
    assert len(ids) == 5


def test_a_user_never_seen_is_answered_and_marked(request_to: Request):
    answer = request_to("POST", "/v1/recommend", json={"user_id": "nobody has this id"}).json()
    assert answer["user_known"] is False
    assert len(answer["items"]) == 10


def test_what_was_seen_and_what_is_excluded_is_never_shown(request_to: Request, user_id: str, recommender: Recommender):
    states = recommender.hydrate([user_id])
    seen = {recommender.item_ids[position] for position in states.excluded}
    body = {"user_id": user_id, "n": 100}
    first = request_to("POST", "/v1/recommend", json=body).json()["items"]
    excluded = [item["item_id"] for item in first[:50]] + ["no such item"]
    second = request_to("POST", "/v1/recommend", json={"user_id": user_id, "n": 100, "exclude": excluded}).json()[
        "items"
    ]
    assert not seen & {item["item_id"] for item in first}
    assert not (seen | set(excluded)) & {item["item_id"] for item in second}


def test_everything_excluded_gives_an_empty_slate(request_to: Request, user_id: str, recommender: Recommender):
    body = {"user_id": user_id, "exclude": list(recommender.item_ids), "explain": True}
    answer = request_to("POST", "/v1/recommend", json=body).json()
    assert (answer["items"], answer["short"]) == ([], True)


def test_explain_reports_each_stage(request_to: Request, user_id: str, recommender: Recommender):
    body = {"user_id": user_id, "n": 3, "explain": True}
    stages = {stage["name"]: stage for stage in request_to("POST", "/v1/recommend", json=body).json()["stages"]}
    n_eligible = recommender.n_items - len(recommender.hydrate([user_id]).excluded)
    assert list(stages) == ["hydrate", "retrieve", "filter", "rank", "select"]
    assert all(stage["ms"] >= 0 for stage in stages.values())
    sizes = {name: (stage["n_in"], stage["n_out"]) for name, stage in stages.items()}
    assert sizes["retrieve"] == (n_eligible, 60)
    assert sizes["filter"] == sizes["rank"] == (60, 60)
    assert sizes["select"] == (60, 3)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user_id"),
        ({"user_id": 17}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "a" * 257}, "user_id"),
        ({"user_id": "a\0"}, "user_id"),
        ({"user_id": "a", "n": 0}, "n"),
        ({"user_id": "a", "n": 101}, "n"),
        ({"user_id": "a", "n": "10"}, "n"),
        ({"user_id": "a", "n": 1.5}, "n"),
        ({"user_id": "a", "n": True}, "n"),
        ({"user_id": "a", "exclude": "b"}, "exclude"),
        ({"user_id": "a", "exclude": ["b", 3]}, "exclude.1"),
        ({"user_id": "a", "exclude": ["b"] * (MAX_EXCLUDED + 1)}, "exclude"),
        ({"user_id": "a", "context": []}, "context"),
        ({"user_id": "a", "session_id": ""}, "session_id"),
        ({"user_id": "a", "explain": "yes"}, "explain"),
        ({"user_id": "a", "users": 1}, "users"),
        ([], "body"),
    ],
)
def test_a_wrong_field_is_named(request_to: Request, body: Any, field: str):
    problem = assert_problem(request_to("POST", "/v1/recommend", json=body), 422, field)
    assert problem["detail"].startswith(f"{field}: ")


def test_a_long_name_of_a_field_comes_back_shortened(request_to: Request):
    response = request_to("POST", "/v1/recommend", json={"user_id": "a", "k" * 5_000: 1})
    assert response.status_code == 422 and response.json()["field"].startswith("kkk") and len(response.content) < 1_000


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"user_id": "\\ud800"}'])
def test_what_is_no_json_is_refused(request_to: Request, body: bytes):
    assert_problem(request_to("POST", "/v1/recommend", content=body, headers=JSON), 422, "body")


def test_a_context_that_json_cannot_keep_is_refused(request_to: Request):
    body = b'{"user_id": "a", "context": {"temperature": NaN}}'
    assert_problem(request_to("POST", "/v1/recommend", content=body, headers=JSON), 422, "context")


def test_a_long_body_is_refused_whether_announced_or_not(request_to: Request):
    body = json.dumps({"user_id": "a", "context": {"text": "x" * 10_000}}).encode()
    assert_problem(request_to("POST", "/v1/recommend", content=body, headers=JSON), 413, "body")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    assert_problem(request_to("POST", "/v1/recommend", content=pieces(), headers=JSON), 413, "body")


def test_items_are_described(request_to: Request, recommender: Recommender):
    item_id = str(recommender.item_ids[7])
    answer = request_to("GET", f"/v1/items/{item_id}").json()
    assert (answer["item_id"], answer["title"]) == (item_id, recommender.titles[7])
    assert answer["features"]


@pytest.mark.parametrize("item_id", ["nothing", "a/b", "%20"])
def test_an_unknown_item_is_not_found(request_to: Request, item_id: str):
    assert_problem(request_to("GET", f"/v1/items/{item_id}"), 404, "item_id")


def test_models_tell_which_one_answers(request_to: Request, recommender: Recommender):
    answer = request_to("GET", "/v1/models").json()
    assert answer["serving"] == recommender.version
    (model,) = answer["models"]
    assert (model["version"], model["is_current"], model["is_serving"]) == (recommender.version, True, True)


def test_health(request_to: Request, recommender: Recommender):
    assert request_to("GET", "/health/live").json() == {"status": "live"}
    assert request_to("GET", "/health/ready").json() == {"status": "ready", "version": recommender.version}


def test_routes_and_methods_that_do_not_exist(request_to: Request):
    assert_problem(request_to("GET", "/nothing"), 404, None)
    assert_problem(request_to("GET", "/v1/models/"), 404, None)
    assert_problem(request_to("GET", "/v1/recommend"), 405, None)


def test_the_documentation_shows_the_interface(request_to: Request):
    document = request_to("GET", "/openapi.json").json()
    recommend = document["paths"]["/v1/recommend"]["post"]
    request = recommend["requestBody"]["content"]["application/json"]["schema"]
    names = {"user_id", "n", "exclude", "user_features", "context", "session_id", "explain"}
    assert set(request["properties"]) == names
    assert set(recommend["responses"]) == {
        "200", "401", "403", "408", "413", "415", "421", "422", "429", "503",
    }  # fmt: skip
    assert set(document["paths"]) == {
        "/v1/recommend", "/v1/feedback", "/v1/items/{item_id}", "/v1/models", "/metrics",
        "/health/live", "/health/ready",
    }  # fmt: skip
    assert request_to("GET", "/docs").status_code == 200


class BrokenGateway:
    version = "20260101T120000Z-1a2b3c4d"

    async def recommend(self, *_: object) -> None:
        raise RuntimeError("secret")

    async def check(self, _budget: object) -> None:
        raise RuntimeError("secret")

    def models(self) -> None:
        raise RuntimeError("secret")


def test_a_client_that_never_finishes_its_request_is_let_go(gateway: Gateway):
    async def never_finishes() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            if not sent_first:
                sent_first.append(True)
                return {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        sent_first: list[bool] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/recommend",
            "headers": [(b"content-type", b"application/json")],
        }
        api = Api(gateway, ServeConfig(home=".", max_body_bytes=1000, body_timeout_s=0.05))
        await asyncio.wait_for(api(scope, receive, send), timeout=10)
        return sent

    start, body = asyncio.run(never_finishes())
    assert start["status"] == 408 and json.loads(body["body"])["field"] == "body"


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/models", "/health/ready"])
def test_failures_show_nothing_of_the_inside(ask: Callable[..., httpx.Response], path: str):
    gateway: Any = BrokenGateway()
    method = "POST" if path == "/v1/recommend" else "GET"
    response = ask(Api(gateway, ServeConfig(home=".")), method, path, json={"user_id": "a"})
    assert_problem(response, 503 if path == "/health/ready" else 500, None)
    assert "secret" not in response.text and "Traceback" not in response.text


def test_the_documented_route_answers_like_the_short_path(
    gateway: Gateway, ask: Callable[..., httpx.Response], user_id: str
):
    """Under a prefix, as one application among others, requests go through FastAPI."""
    app = Starlette(routes=[Mount("/tandem", Api(gateway, ServeConfig(home=".")))])
    answer = ask(app, "POST", "/tandem/v1/recommend", json={"user_id": user_id, "n": 2})
    RecommendResponse.model_validate(answer.json(), extra="forbid")
    assert_problem(ask(app, "POST", "/tandem/v1/recommend", json={"user_id": 2}), 422, "user_id")
