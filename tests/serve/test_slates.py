"""Requests that go through the stages together: those of known users and of strangers, each by itself."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arms
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.schemas import RecommendRequest, RecommendResponse
from serve.stages import Stages

Answers = list[RecommendResponse | BaseException]


def together(recommender: Recommender, home: str, users: list[str], **changed: Any) -> Answers:
    """The answers to users who ask at the same time, by other stages in place of the bundle's own."""
    config = ServeConfig(home=home, seed=0)
    stages = replace(Stages.here(recommender, config), **changed)
    gateway = Gateway(Arms.of_config(config, recommender.version, {recommender.version: stages}), Registry(Home(home)))

    async def ask() -> Answers:
        asked = [gateway.recommend(RecommendRequest(user_id=user, n=3, explain=True)) for user in users]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


@pytest.mark.parametrize("strangers_fail", [True, False])
def test_what_fails_for_some_is_no_failure_of_the_others(
    recommender: Recommender, home: str, user_id: str, strangers_fail: bool
):
    async def retrieve(states: Any, n: int) -> Any:
        if states.nothing_known.all() == strangers_fail:
            raise RuntimeError("as a test wants it")
        return recommender.retrieve(states, n)

    answers = together(recommender, home, ["stranger", user_id, "another", user_id], retrieve=retrieve)
    fails = [isinstance(answer, RuntimeError) for answer in answers]
    assert fails == [strangers_fail, not strangers_fail] * 2
    assert all(len(answer.items) == 3 for answer in answers if isinstance(answer, RecommendResponse))


@pytest.mark.parametrize("strangers_are_slow", [True, False])
def test_the_time_of_a_stage_is_that_of_who_waited_for_it(
    recommender: Recommender, home: str, user_id: str, strangers_are_slow: bool, monkeypatch: pytest.MonkeyPatch
):
    """Where the stages are in one process the one have to wait for the other, which no stage of theirs has taken."""
    clock = [0.0]
    monkeypatch.setattr("serve.slates.perf_counter", lambda: clock[0])
    monkeypatch.setattr("serve.gateway.perf_counter", lambda: clock[0])

    async def retrieve(states: Any, n: int) -> Any:
        clock[0] += 100 if states.nothing_known.all() == strangers_are_slow else 1
        return recommender.retrieve(states, n)

    answers = together(recommender, home, [user_id, "stranger"], retrieve=retrieve)
    for answer, seconds in zip(answers, (1, 100) if strangers_are_slow else (100, 1), strict=True):
        assert isinstance(answer, RecommendResponse) and answer.stages is not None
        assert {stage.name: stage.ms for stage in answer.stages} == {
            "hydrate": 0, "retrieve": 1000 * seconds, "filter": 0, "rank": 0, "select": 0,
        }  # fmt: skip
