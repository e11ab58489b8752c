"""Answers over HTTP, without a network, and what is in the tables of them."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rec.bundle_policy import bundle_policy
from rec.data.event_rows import EXCLUDED, USER_FEATURES
from rec.data.rounds import read_rounds
from rec.errors import ConfigError
from rec.ope.slate_log import slate_log
from rec.policy import slate_propensities
from rec.recommender import Recommender
from serve.api import Api
from serve.config import LogConfig, ServeConfig
from serve.event_log import now_ms
from serve.problems import ProblemError
from serve.request_log import RequestLog, spool_folder
from serve.schemas import RecommendRequest
from tests.serve.services import REWARDS, Request, Service, problem, shown


@pytest.fixture
def request_to(service: Service, ask: Callable[..., httpx.Response]) -> Request:
    return partial(ask, Api(service.gateway, ServeConfig(home=".")))


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


def test_the_spool_is_beside_the_tables_or_has_to_be_named(tmp_path: Path):
    assert spool_folder(ServeConfig(home=str(tmp_path))) == tmp_path / "spool"
    assert spool_folder(ServeConfig(home="s3://bucket/home", log=LogConfig(spool="/spool"))) == Path("/spool")
    with pytest.raises(ConfigError, match=r"log\.spool"):
        spool_folder(ServeConfig(home="s3://bucket/home?region=eu-west-1"))
