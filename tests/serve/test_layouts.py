"""Whatever the layout, the same user gets the same candidates with the same scores, and exact propensities."""

import asyncio
import csv
import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from rec.policy import position_probabilities
from rec.recommender import Recommender
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.load import post_all

IN_ORDER = PolicyConfig(epsilon=0, temperature=0)
EXPLORING = PolicyConfig(epsilon=0.1, temperature=0.5)


def answers_by_replica() -> Counter[str]:
    """How many requests each replica has answered with success, as counted by the front that sent them to it."""
    answered = Counter()
    for file in Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent.glob("*/admin.sock"):
        with socket.socket(socket.AF_UNIX) as front:
            front.connect(str(file))
            front.sendall(b"show stat\n")
            table = b"".join(iter(lambda: front.recv(65536), b"")).decode().removeprefix("# ")
        rows = csv.DictReader(table.splitlines())
        answered |= Counter(
            {row["svname"]: int(row["hrsp_2xx"]) for row in rows if row["svname"].startswith("SERVE_REPLICA")}
        )
    return answered


def test_an_answer_says_one_id_of_its_request(deploy: Callable[[str, ServeConfig], str], home: str):
    """Through the front and Serve, which have ids of their own, and send back what the client wrote."""
    address = deploy("ids", ServeConfig(home=home, log=LogConfig(enabled=False)))
    for given in ("mine-1.2", "not mine", None):
        headers = {} if given is None else {"X-Request-Id": given}
        for response in (
            httpx.post(f"{address}/v1/recommend", json={"user_id": "a", "n": 1}, headers=headers, timeout=30),
            httpx.get(f"{address}/health/live", headers=headers, timeout=30),
        ):
            (told,) = response.headers.get_list("x-request-id")
            assert response.status_code == 200 and told and (told == given) is (given == "mine-1.2")


def test_all_layouts_agree_with_the_recommender(
    deploy: Callable[[str, ServeConfig], str], home: str, recommender: Recommender
):
    layouts = {
        "one": ServeConfig(home=home, policy=IN_ORDER),
        "two": ServeConfig(home=home, policy=IN_ORDER, replicas=2),
        "distributed": ServeConfig(home=home, policy=IN_ORDER, layout="distributed", deadline_s=120, rank_timeout_s=60),
    }
    n = recommender.config.ranker.n_candidates
    user_ids = [*map(str, recommender.snapshot.user_ids[:5]), "nobody has this id"]
    expected = {user_id: recommender.recommend(user_id, n) for user_id in user_ids}
    row = recommender.snapshot.user_table.iloc[3].drop("user_id").to_dict()
    described = recommender.recommend_new(row, n=n)
    for name, config in layouts.items():
        address = deploy(name, config)
        before = answers_by_replica()
        answered = Counter[str]()
        for _ in range(10):  # the front counts a little late while it takes up new replicas
            for user_id in user_ids:
                answer = httpx.post(f"{address}/v1/recommend", json={"user_id": user_id, "n": n}, timeout=30).json()
                shown = {item["item_id"]: (item["score"], item["source"]) for item in answer["items"]}
                assert shown == {item.item_id: (item.score, item.source) for item in expected[user_id].items}, name
                assert answer["user_known"] == expected[user_id].user_known
            answered = answers_by_replica() - before
            if len(answered) == config.replicas:
                break
        assert len(answered) == config.replicas, f"{name}: {answered}"
        body = {"user_id": "stranger", "n": n, "user_features": row}
        told = httpx.post(f"{address}/v1/recommend", json=body, timeout=30).json()
        assert {item["item_id"]: item["score"] for item in told["items"]} == {
            item.item_id: item.score for item in described.items
        }, name
        refused = httpx.post(f"{address}/v1/recommend", json=body | {"user_features": {"height": 1.8}}, timeout=30)
        assert (refused.status_code, refused.json()["field"]) == (422, "user_features.height"), name


def draws(address: str, body: dict[str, Any], n_requests: int) -> list[dict[str, Any]]:
    """The first item of each of many answers to one request."""
    replies = asyncio.run(post_all(f"{address}/v1/recommend", [json.dumps(body).encode()] * n_requests, clients=16))
    assert {reply.status for reply in replies} == {200}
    return [json.loads(reply.body)["items"][0] for reply in replies]


@pytest.mark.parametrize("n_requests", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_items_are_shown_as_often_as_their_propensity_says(
    deploy: Callable[[str, ServeConfig], str], home: str, recommender: Recommender, user_id: str, n_requests: int
):
    address = deploy("seeded", ServeConfig(home=home, policy=EXPLORING, seed=3))
    shown = draws(address, {"user_id": user_id, "n": 1}, n_requests)

    states = recommender.hydrate([user_id])
    candidates = recommender.retrieve(states)
    n_eligible = recommender.n_items - len(states.excluded)
    p_candidate, p_other = position_probabilities(
        recommender.rank(states, candidates),
        candidates.items >= 0,
        np.array([n_eligible]),
        epsilon=EXPLORING.epsilon,
        temperature=EXPLORING.temperature,
    )
    item_ids = [recommender.item_ids[position] for position in candidates.items[0]]
    propensity = dict(zip(item_ids, p_candidate[0].tolist(), strict=True))

    for item in shown:
        assert item["propensity"] == pytest.approx(propensity.get(item["item_id"], p_other[0]), rel=1e-9)
    counts = Counter(item["item_id"] for item in shown)
    often = {item_id: p for item_id, p in propensity.items() if p * n_requests >= 10}
    assert len(often) >= 5
    for item_id, p in often.items():
        assert abs(counts[item_id] / n_requests - p) <= 4 * np.sqrt(p * (1 - p) / n_requests), item_id
    # The items too rare to be judged one by one are judged together.
    rare = 1 - sum(often.values())
    share = sum(count for item_id, count in counts.items() if item_id not in often) / n_requests
    assert abs(share - rare) <= 4 * np.sqrt(rare * (1 - rare) / n_requests)
