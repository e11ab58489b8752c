"""Requests that go through the stages together: those of known users and of strangers, each by itself."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arms
from serve.budget import FAILURES
from serve.config import PolicyConfig, ServeConfig
from serve.gateway import Gateway
from serve.schemas import RecommendRequest, RecommendResponse
from serve.stages import Stages


def together(
    recommender: Recommender,
    home: str,
    users: list[str],
    times: int = 1,
    *,
    config: ServeConfig | None = None,
    **changed: Any,
) -> list[Any]:
    """The answers to users who ask at the same time, over and over, by other stages in place of the bundle's own."""
    config = config or ServeConfig(home=home, seed=0)
    stages = replace(Stages.here(recommender, config), **changed)
    gateway = Gateway(Arms.of_config(config, recommender.version, {recommender.version: stages}), Registry(Home(home)))

    async def ask() -> list[RecommendResponse | BaseException]:
        answers = []
        for _ in range(times):
            asked = [gateway.recommend(RecommendRequest(user_id=user, n=3, explain=True)) for user in users]
            answers += await asyncio.gather(*asked, return_exceptions=True)
        return answers

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


def test_a_score_that_is_no_number_concerns_that_user_alone(recommender: Recommender, home: str):
    """However often it happens: the ranker has answered, and is asked on."""
    users = [str(user) for user in recommender.snapshot.user_ids[:3]]
    asked: list[int] = []

    async def rank(states: Any, candidates: Any) -> Any:
        asked.append(len(states))
        scores = recommender.rank(states, candidates)
        scores[1 % len(states), 0] = np.nan
        return scores

    batches = FAILURES + 2
    config = ServeConfig(home=home, policy=PolicyConfig(epsilon=0, temperature=0))
    alone = together(recommender, home, users[:1], config=config)
    answers = together(recommender, home, users, batches, config=config, rank=rank)
    for at in range(0, len(answers), 3):
        assert [answer.degraded for answer in answers[at : at + 3]] == [False, True, False]
        assert answers[at].items == alone[0].items
        unranked = recommender.unranked(candidates := recommender.retrieve(recommender.hydrate([users[1]])))
        order = np.lexsort((candidates.items[0], -unranked[0]))[:3]
        expected = recommender.item_ids[candidates.items[0][order]].tolist()
        assert [item.item_id for item in answers[at + 1].items] == expected
    assert asked == [3] * batches


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
