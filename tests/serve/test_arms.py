"""Arms: users are divided as the shares say, stay where they are, and every answer is of one arm alone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rec.data.events import open_events
from rec.policy import slate_propensities
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arms, arm_of
from serve.claims import Claims
from serve.committer import Committer
from serve.config import CHAMPION, ArmConfig, PolicyConfig, ServeConfig
from serve.event_log import EventLog
from serve.gateway import Gateway
from serve.request_log import RequestLog
from serve.schemas import RecommendRequest
from serve.stages import Stages

USERS = [f"user {number}" for number in range(20_000)]


def arms_of(*shares: tuple[str, float]) -> tuple[ArmConfig, ...]:
    return tuple(ArmConfig(name=name, share=share) for name, share in shares)


def assigned(experiment: str, *shares: tuple[str, float]) -> np.ndarray:
    challengers = arms_of(*shares)
    return np.array([arm_of(user_id, experiment, challengers) for user_id in USERS])


def test_arms_have_their_shares_of_the_users():
    found = assigned("", ("a", 0.05), ("b", 0.3))
    for name, share in (("a", 0.05), ("b", 0.3), (CHAMPION, 0.65)):
        error = np.sqrt(share * (1 - share) / len(USERS))
        assert abs((found == name).mean() - share) <= 4 * error


def test_an_assignment_is_for_ever():
    """It is in the logs of yesterday, so another hash would put users into another arm in the middle of it."""
    challengers = arms_of(("b", 0.5))
    assert [arm_of(user_id, "spring", challengers) for user_id in ("1", "2", "3", "4", "5", "ä")] == [
        "b", CHAMPION, "b", "b", "b", "b"
    ]  # fmt: skip


def test_a_share_that_grows_takes_users_from_the_champion_alone():
    before, after = assigned("", ("a", 0.1), ("b", 0.2)), assigned("", ("a", 0.1), ("b", 0.5))
    moved = before != after
    assert set(before[moved]) == {CHAMPION} and set(after[moved]) == {"b"}
    assert 0.25 < moved.mean() < 0.35


def test_experiments_divide_users_independently():
    first, second = assigned("one", ("b", 0.5)) == "b", assigned("two", ("b", 0.5)) == "b"
    assert abs((first & second).mean() - 0.25) <= 4 * np.sqrt(0.25 * 0.75 / len(USERS))


def test_without_challengers_all_are_the_champions():
    assert arm_of("anybody", "", ()) == CHAMPION


@pytest.mark.parametrize(
    "arms",
    [
        [{"name": CHAMPION, "share": 0.1}],
        [{"name": "b", "share": 0.1}, {"name": "b", "share": 0.1}],
        [{"name": "b", "share": 0.5}, {"name": "c", "share": 0.5}],
        [{"name": "b", "share": 0.0}],
        [{"name": "B b", "share": 0.1}],
    ],
)
def test_arms_that_cannot_be_are_refused(arms: list[dict[str, Any]]):
    with pytest.raises(ValidationError):
        ServeConfig.model_validate({"arms": arms})


def test_only_arms_that_follow_are_switched(recommender: Recommender, home: str):
    other: Any = object()
    pinned = [{"name": "pinned", "share": 0.1, "version": "x"}, {"name": "policy", "share": 0.1}]
    config = ServeConfig.model_validate({"home": home, "arms": pinned})
    stages: Any = {"v1": object(), "x": object()}
    arms = Arms.of_config(config, "v1", stages)
    assert config.versions("v1") == arms.versions == ["v1", "x"]
    arms.switch("v2", other)
    assert {arm.name: arm.version for arm in arms.all()} == {CHAMPION: "v2", "pinned": "x", "policy": "v2"}
    assert [arm.stages is other for arm in arms.all()] == [True, False, True]


def test_the_log_says_which_arm_drew_and_its_propensities_are_those_of_that_arm(
    recommender: Recommender, home: str, tmp_path: Path
):
    """An arm of another policy: propensities computed anew from the log alone, by the arm's policy."""
    policies = {CHAMPION: PolicyConfig(epsilon=0.05, temperature=0.2), "bold": PolicyConfig(epsilon=0.5, temperature=1)}
    challenger = ArmConfig(name="bold", share=0.4, policy=policies["bold"])
    config = ServeConfig(home=home, policy=policies[CHAMPION], arms=(challenger,), experiment="e")
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    events, spool = open_events(str(tmp_path)), tmp_path / "spool"
    log = RequestLog(EventLog(spool, events, sync_s=1, max_bytes=2**20), Claims(spool, 60), config)
    gateway = Gateway(arms, Registry(Home(home)), log)
    users = [*map(str, recommender.snapshot.user_ids), "nobody", "nobody else"]

    async def ask() -> None:
        for user_id in users:
            await gateway.recommend(RecommendRequest(user_id=user_id, n=4))

    asyncio.run(ask())
    log.close()
    committer = Committer(spool, events)
    committer.commit()
    committer.close()
    rows = events.read("requests").to_pylist()
    slates: dict[str, list[dict[str, Any]]] = {}
    for impression in events.read("impressions").to_pylist():
        slates.setdefault(impression["request_id"], []).append(impression)
    assert {row["user_id"]: row["arm"] for row in rows} == {
        user_id: arm_of(user_id, "e", config.arms) for user_id in users
    }
    assert {row["arm"] for row in rows} == set(policies)
    for row in rows:
        policy = policies[row["arm"]]
        assert (row["epsilon"], row["temperature"]) == (policy.epsilon, policy.temperature)
        code = {item: number for number, item in enumerate(row["candidates"])}
        slate = sorted(slates[row["request_id"]], key=lambda each: each["position"])
        items = [code.setdefault(each["item_id"], len(code)) for each in slate]
        expected = slate_propensities(
            np.array([row["candidate_scores"]]),
            np.arange(len(row["candidates"]))[None],
            np.array([items]),
            np.array([[each["n_eligible"] for each in slate]]),
            epsilon=policy.epsilon,
            temperature=policy.temperature,
        )
        assert [each["propensity"] for each in slate] == pytest.approx(expected[0].tolist(), rel=1e-12)
        assert json.loads(row["context"]) == {}
