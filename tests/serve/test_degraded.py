"""A ranker that fails, is late or is gone: people get the order of retrieval, and the log says how it was drawn."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rec.data.events import EventTables, open_events
from rec.data.rounds import read_rounds
from rec.errors import ScoreError
from rec.ope.slate_log import slate_log
from rec.policy import slate_propensities
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.budget import FAILURES, REST_S, Breaker, Budget
from serve.committer import Committer
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.deployments import STAGES, remote_stages
from serve.event_log import now_ms
from serve.gateway import Gateway
from serve.metrics import SharedMetrics
from serve.request_log import RequestLog, spool_folder
from serve.stages import Stages, check

Ask = Callable[..., httpx.Response]
Rank = Callable[..., Any]
IN_ORDER = PolicyConfig(epsilon=0, temperature=0)
EXPLORING = PolicyConfig(epsilon=0.2, temperature=0.3)
PATIENCE_S = 120.0


def test_the_ranker_leaves_half_of_the_time_to_what_comes_after():
    assert Budget(ends_at=10.0, rank_s=1.0).rank_until(2.0) == 3.0
    assert Budget(ends_at=10.0, rank_s=9.0).rank_until(2.0) == 6.0
    assert Budget(ends_at=10.0, rank_s=9.0).rank_until(11.0) == 11.0
    assert Budget(ends_at=inf, rank_s=inf).rank_until(2.0) == inf


def test_a_breaker_asks_again_at_times_and_goes_on_after_a_success():
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.asks(10.0)
        breaker.failed(10.0)
    assert not breaker.asks(10.0 + REST_S / 2)
    assert breaker.asks(10.0 + REST_S), "one finds out"
    assert not breaker.asks(10.0 + REST_S), "and one only"
    assert breaker.asks(10.0 + 2 * REST_S)
    breaker.succeeded()
    assert breaker.asks(10.0 + 2 * REST_S) and breaker.asks(10.0 + 2 * REST_S)
    breaker.failed(20.0)
    assert breaker.asks(20.0), "a failure now and then changes nothing"


async def fails(*_: object) -> Any:
    raise RuntimeError("secret")


async def never_ends(*_: object) -> Any:
    await asyncio.Event().wait()


async def no_numbers(_states: object, candidates: Any) -> Any:
    return np.full(candidates.items.shape, np.nan)


class CutOff:
    """A deployment all of whose calls Serve ends, though nobody who waits for them has given up."""

    @property
    def ask(self) -> "CutOff":
        return self

    def options(self, **_: object) -> "CutOff":
        return self

    def remote(self, *_: object) -> asyncio.Future[Any]:
        call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call.cancel()
        return call


ENDED = remote_stages({name: CutOff() for name in STAGES}, "v")  # pyright: ignore[reportArgumentType]
RANKERS = pytest.mark.parametrize("rank", [fails, never_ends, no_numbers, ENDED.rank])


def test_a_ranker_that_is_gone_is_not_waited_for_by_everybody(
    recommender: Recommender, home: str, ask: Ask, user_id: str, monkeypatch: pytest.MonkeyPatch
):
    """Strangers, who get what is popular with a ranker or without, neither wait for it nor say that it is back."""
    monkeypatch.setattr("serve.budget.REST_S", 3_600.0)
    asked: list[int] = []

    async def counted(*_: object) -> Any:
        asked.append(1)
        await asyncio.Event().wait()

    api = api_of(recommender, ServeConfig(home=home, policy=IN_ORDER, log=LogConfig(enabled=False)), rank=counted)
    users = [user for _ in range(FAILURES + 5) for user in (user_id, "a stranger")]
    answers = [ask(api, "POST", "/v1/recommend", json={"user_id": user}).json() for user in users]
    assert [answer["degraded"] for answer in answers] == [True, False] * (FAILURES + 5)
    assert len(asked) == FAILURES


def api_of(recommender: Recommender, config: ServeConfig, log: RequestLog | None = None, **changed: Any) -> Api:
    """The interface of a bundle with other stages in place of its own."""
    stages = replace(Stages.here(recommender, config), **changed)
    arms = Arms.of_config(config, recommender.version, {recommender.version: stages})
    shared = SharedMetrics(None)
    gateway = Gateway(arms, Registry(Home(config.home)), log, metrics=shared.own)
    limits = {"body_timeout_s": 60, "deadline_s": 60, "rank_timeout_s": 0.05}
    return Api(gateway, config.model_copy(update=limits), metrics=shared)


@RANKERS
def test_without_the_ranker_the_order_is_that_of_retrieval(
    recommender: Recommender, home: str, ask: Ask, user_id: str, rank: Rank
):
    config = ServeConfig(home=home, policy=IN_ORDER, log=LogConfig(enabled=False))
    asked = partial(ask, api_of(recommender, config, rank=rank))
    states = recommender.hydrate([user_id])
    candidates = recommender.retrieve(states)
    order = np.lexsort((candidates.items[0], -candidates.scores[0]))[:10]
    assert not np.array_equal(order, recommender.best_columns(candidates, recommender.rank(states, candidates), 10)[0])
    response = asked("POST", "/v1/recommend", json={"user_id": user_id, "explain": True})
    answer = response.json()
    assert response.status_code == 200 and answer["degraded"] is True and not answer["short"]
    assert [item["item_id"] for item in answer["items"]] == recommender.item_ids[candidates.items[0][order]].tolist()
    assert [item["score"] for item in answer["items"]] == candidates.scores[0][order].tolist()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(asked("GET", "/metrics").text)
        for sample in family.samples
    }
    assert found["tandem_degraded_total"] == found["tandem_recommendations_total"] == 1


@RANKERS
def test_the_log_has_what_was_really_done(
    recommender: Recommender, home: str, tmp_path: Path, ask: Ask, user_id: str, rank: Rank
):
    own = str(tmp_path)
    config = ServeConfig(home=home, policy=EXPLORING, log=LogConfig(spool=f"{own}/spool"), rewards={"liked": 1.0})
    log = RequestLog.open(config, [recommender.version])
    api = api_of(recommender, config, log, rank=rank)
    answers = [
        ask(api, "POST", "/v1/recommend", json={"user_id": user, "n": 5}).json()
        for user in (user_id, "nobody has this id") * 3
    ]
    log.close()
    events = open_events(own)
    committer = Committer(spool_folder(config), events)
    committer.commit()
    committer.close()
    assert_told_as_done(events, recommender, answers)


def assert_told_as_done(events: EventTables, recommender: Recommender, answers: list[dict[str, Any]]) -> None:
    """Every degraded answer is in the log as such, and was drawn from what retrieval found, by its scores."""
    requests = {row["request_id"]: row for row in events.read("requests").to_pylist()}
    assert {each: row["degraded"] for each, row in requests.items()} == {
        answer["request_id"]: answer["degraded"] for answer in answers
    }
    later = now_ms() + 2 * 86_400_000
    logged = slate_log(read_rounds(events, rewards={"liked": 1.0}, now_ms=later))
    assert len(logged) == len(answers), "its check of each propensity against scores and policy passed"
    degraded = [answer for answer in answers if answer["degraded"]]
    assert degraded
    for answer in degraded:
        row = requests[answer["request_id"]]
        states = recommender.hydrate([row["user_id"]])
        candidates = recommender.retrieve(states)
        scores = recommender.unranked(candidates)
        assert row["candidates"] == recommender.item_ids[candidates.items[0]].tolist()
        assert row["candidate_scores"] == scores[0].tolist()
        expected = slate_propensities(
            scores,
            candidates.items,
            np.array([[recommender.position_of(item["item_id"]) for item in answer["items"]]]),
            recommender.n_items - len(states.excluded) - np.arange(len(answer["items"]))[None],
            epsilon=EXPLORING.epsilon,
            temperature=EXPLORING.temperature,
        )
        np.testing.assert_allclose([item["propensity"] for item in answer["items"]], expected[0], rtol=1e-12)


@RANKERS
def test_a_service_without_its_ranker_is_ready_and_says_so(recommender: Recommender, home: str, ask: Ask, rank: Rank):
    config = ServeConfig(home=home, log=LogConfig(enabled=False))
    response = ask(api_of(recommender, config, rank=rank), "GET", "/health/ready")
    assert (response.status_code, response.json()["degraded"]) == (200, ["ranker"])


def test_a_call_that_serve_ends_is_a_503_where_nothing_is_done_without_it(
    recommender: Recommender, home: str, ask: Ask, user_id: str
):
    """And no cancellation of those who wait for it, whose connections would end without an answer."""
    config = ServeConfig(home=home, log=LogConfig(enabled=False))
    api = api_of(recommender, config, retrieve=ENDED.retrieve, item=ENDED.item, users=ENDED.users)
    paths = "/v1/items/i", "/page/setup.json", "/health/ready"
    asked = [ask(api, "GET", path) for path in paths]
    for response in (*asked, ask(api, "POST", "/v1/recommend", json={"user_id": user_id})):
        assert response.status_code == 503 and response.headers["content-type"] == "application/problem+json"


def test_who_gives_up_a_remote_call_is_cancelled(recommender: Recommender):
    class Hangs(CutOff):
        def remote(self, *_: object) -> asyncio.Future[Any]:
            return asyncio.get_running_loop().create_future()

    stages = remote_stages({name: Hangs() for name in STAGES}, "v")  # pyright: ignore[reportArgumentType]

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await stages.item("i")
        asked = asyncio.ensure_future(stages.item("i"))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()

    asyncio.run(ask())


def test_where_an_agent_chooses_only_what_it_needs_is_asked(recommender: Recommender, home: str, ask: Ask):
    config = ServeConfig(home=home, policy=IN_ORDER, log=LogConfig(enabled=False))

    def ready(**changed: Any) -> httpx.Response:
        return ask(api_of(recommender, config, **changed), "GET", "/health/ready")

    agents = {"choose": fails, "retrieve": fails, "rank": fails}
    assert ready(**agents).status_code == 200 and "degraded" not in ready(**agents).json()
    assert ready(**agents, select=fails).status_code == 503
    assert ready(retrieve=fails).status_code == 503


@pytest.mark.parametrize(("rank", "error"), [(fails, RuntimeError), (no_numbers, ScoreError)])
def test_a_version_whose_ranker_fails_does_not_take_over(
    recommender: Recommender, home: str, rank: Rank, error: type[Exception]
):
    config = ServeConfig(home=home, log=LogConfig(enabled=False))
    with pytest.raises(error):
        asyncio.run(check(replace(Stages.here(recommender, config), rank=rank), config.policy))


def rankers(application: str) -> list[int]:
    """The processes that rank."""
    name = f"ServeReplica:{application}:ranker"
    return [each.pid for each in psutil.process_iter(["cmdline"]) if name in " ".join(each.info["cmdline"] or [])]


@pytest.mark.slow
def test_a_ranker_that_hangs_or_is_killed_fails_no_request(
    deploy: Callable[[str, ServeConfig], str], home: str, tmp_path: Path, recommender: Recommender, user_id: str
):
    own = str(shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("events", "spool", "runs")))
    config = ServeConfig(
        home=own,
        layout="distributed",
        replica_cpus=0.05,
        policy=EXPLORING,
        deadline_s=120,
        rank_timeout_s=0.2,
        rewards={"liked": 1.0},
        log=LogConfig(commit_s=0.2),
    )
    address = deploy("ranker", config)
    answers: list[dict[str, Any]] = []

    def degraded() -> bool:
        response = httpx.post(f"{address}/v1/recommend", json={"user_id": user_id, "n": 5}, timeout=PATIENCE_S)
        assert response.status_code == 200, response.text
        answers.append(response.json())
        return answers[-1]["degraded"]

    def healthy_again() -> None:
        deadline = monotonic() + PATIENCE_S
        while degraded():
            assert monotonic() < deadline, "the ranker does not come back"
            sleep(0.05)

    healthy_again()
    (hanging,) = rankers("ranker")
    os.kill(hanging, signal.SIGSTOP)
    try:
        assert degraded() and degraded()
        ready = httpx.get(f"{address}/health/ready", timeout=PATIENCE_S)
        assert ready.status_code == 200 and "ranker" in ready.json()["degraded"]
    finally:
        os.kill(hanging, signal.SIGCONT)
    healthy_again()
    for _ in range(2):
        (killed,) = rankers("ranker")
        os.kill(killed, signal.SIGKILL)
        assert degraded(), "another takes longer to start than is waited for"
        healthy_again()
    events = open_events(own)
    deadline = monotonic() + PATIENCE_S
    while len(events.read("impressions")) < 5 * len(answers):
        assert monotonic() < deadline, "the log has not all"
        sleep(0.1)
    assert_told_as_done(events, recommender, answers)
    print(f"{len(answers)} answers, {sum(answer['degraded'] for answer in answers)} of them degraded")
