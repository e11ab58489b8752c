"""What the serving benchmark measures us beside does the work that ours does."""

import asyncio

import httpx
import pytest
from starlette.types import ASGIApp

from benchmarks.speed.serve_peers import our_asgi, plain_fastapi


def asked(app: ASGIApp, user_id: str) -> dict[str, dict[str, object]]:
    """Items by id, of slates long enough to share most of what they show."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/recommend", json={"user_id": user_id, "n": 50})

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    return {item["item_id"]: item for item in answer.json()["items"]}


def test_the_peer_answers_with_the_same_scores(home: str, user_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", home)
    ours, peers = asked(our_asgi(), user_id), asked(plain_fastapi(), user_id)
    assert len(ours) == len(peers) == 50
    shared = {item for item in ours.keys() & peers.keys() if None not in (ours[item]["score"], peers[item]["score"])}
    assert len(shared) >= 20
    assert {item: ours[item]["score"] for item in shared} == {item: peers[item]["score"] for item in shared}
