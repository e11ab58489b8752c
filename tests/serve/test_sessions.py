"""Every store of sessions keeps the same, and what it keeps counts at the next request."""

import asyncio
import json
import random
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import redis

from rec.data.event_rows import EXCLUDED
from rec.data.events import EventTables
from rec.errors import ConfigError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arms
from serve.claims import Claims
from serve.committer import Committer
from serve.config import LogConfig, PolicyConfig, ServeConfig, SessionsConfig
from serve.event_log import EventLog
from serve.gateway import Gateway
from serve.logged import rows_of
from serve.ports import free_port
from serve.request_log import RequestLog
from serve.schemas import FeedbackEvent, FeedbackResponse, RecommendRequest, RecommendResponse
from serve.sessions import Act, MemorySessions, RedisSessions, Session, Sessions, SessionStore
from serve.spool import read_frames, segments
from serve.stages import Stages

Store = Callable[..., SessionStore]
REWARDS = {"watched": 1.0, "skipped": -2.0, "liked": 2.0}
PATIENCE_S = 60.0


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis, which keeps nothing on the disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: run `make system-deps`")
    port = free_port("127.0.0.1", 0)
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        deadline = monotonic() + PATIENCE_S
        with redis.Redis(port=port) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert monotonic() < deadline, "redis-server does not answer"
                    sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


_databases = count()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    """Makes stores of one kind that share nothing with those of other tests."""
    if request.param == "memory":
        return lambda **options: MemorySessions(SessionsConfig(**options))
    url = f"{request.getfixturevalue('redis_url')}/{next(_databases) % 16}"
    redis.Redis.from_url(url).flushdb()
    return lambda **options: RedisSessions(SessionsConfig(url=url, **options))


def after(store: SessionStore, *batches: list[Act], user_id: str = "u") -> Session:
    """The session of a user when these were added."""

    async def session() -> Session:
        for acts in batches:
            await store.add(user_id, acts)
        return await store.session(user_id)

    return asyncio.run(session())


def test_acts_may_come_in_any_order_and_again(store: Store):
    acts = [Act(f"i{number % 7}", ("liked", "skipped")[number % 2], 1_000 + number // 2) for number in range(20)]
    expected = Session.of(acts)
    assert len(expected.acts) == 7 and list(expected.acts) == sorted(expected.acts, key=lambda act: act.timestamp)
    shuffler = random.Random(0)
    for number in range(5):
        mixed = shuffler.sample(acts, len(acts)) + shuffler.sample(acts, 5)
        assert after(store(), mixed[:9], mixed[9:], user_id=f"u{number}") == expected


def test_the_latest_act_on_an_item_counts(store: Store):
    session = after(
        store(), [Act("a", "liked", 3), Act("b", "liked", 4)], [Act("a", "skipped", 5), Act("b", "skipped", 2)]
    )
    assert session == Session((Act("b", "liked", 4), Act("a", "skipped", 5)))
    assert session.item_ids == ["b", "a"]
    assert session.taken({"liked"}) == ["b"]
    assert session.counts == {"liked": 1, "skipped": 1}


def test_the_oldest_acts_are_let_go(store: Store):
    acts = [Act(f"i{number}", "liked", number) for number in range(10)]
    assert after(store(max_acts=3), acts[5:], acts[:5]).item_ids == ["i7", "i8", "i9"]


def test_users_are_apart(store: Store):
    one = store()

    async def sessions() -> list[Session]:
        await one.add("u", [Act("a", "liked", 1)])
        await one.add("u:2", [Act("b", "liked", 1)])
        return [await one.session(user_id) for user_id in ("u", "u:2", "nobody")]

    assert [session.item_ids for session in asyncio.run(sessions())] == [["a"], ["b"], []]


def test_memory_lets_sessions_go_in_time(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    store = MemorySessions(SessionsConfig(expire_s=100, max_users=2), clock=lambda: clock[0])
    assert after(store, [Act("a", "liked", 1)]).item_ids == ["a"]
    clock[0] = 99.0
    assert after(store, [Act("b", "liked", 2)]).item_ids == ["a", "b"], "counted from the last act"
    clock[0] = 198.0
    assert after(store).item_ids == ["a", "b"]
    clock[0] = 199.0
    assert after(store).item_ids == []
    for user_id in ("x", "y", "x", "z"):
        after(store, [Act("a", "liked", 1)], user_id=user_id)
    assert [len(after(store, user_id=user_id).acts) for user_id in ("x", "y", "z")] == [1, 0, 1]


def test_memory_forgets_a_session_at_its_end_though_nobody_asks(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr("serve.sessions.FORGET_S", 0)
    store = MemorySessions(SessionsConfig(expire_s=100), clock=lambda: clock[0])

    async def remembered() -> list[int]:
        following, found = asyncio.create_task(store.follow()), []
        await store.add("u", [Act("a", "liked", 1)])
        for clock[0] in (99.0, 100.0):
            for _ in range(3):
                await asyncio.sleep(0)
            found.append(len(store._users))
        following.cancel()
        return found

    assert asyncio.run(remembered()) == [1, 0]


def test_redis_lets_sessions_go_in_time(redis_url: str):
    client = redis.Redis.from_url(f"{redis_url}/15", decode_responses=True)
    client.flushdb()
    after(RedisSessions(SessionsConfig(url=f"{redis_url}/15", expire_s=100)), [Act("a", "liked", 1)])
    (key,) = client.keys()  # pyright: ignore[reportGeneralTypeIssues]
    assert 0 < client.ttl(key) <= 100  # pyright: ignore[reportOperatorIssue]


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"sessions\.url"):
        RedisSessions(SessionsConfig(url="localhost:6379"))


class Service:
    """A gateway with log and sessions, and the requests in the log."""

    def __init__(self, recommender: Recommender, home: str, folder: Path, store: SessionStore) -> None:
        self.folder = folder
        config = ServeConfig(
            home=home,
            seed=0,
            policy=PolicyConfig(epsilon=0, temperature=0),
            log=LogConfig(spool=str(folder)),
            rewards=REWARDS,
        )
        arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
        self.events = EventTables(Home(folder))
        log = RequestLog(EventLog(folder, self.events, sync_s=60, max_bytes=2**30), Claims(folder, 60), config, REWARDS)
        self.gateway = Gateway(arms, Registry(Home(home)), log, sessions=Sessions(store, PATIENCE_S))

    def shown(self, user_id: str, **body: Any) -> Awaitable[RecommendResponse]:
        return self.gateway.recommend(RecommendRequest(user_id=user_id, explain=True, **body))

    async def act(self, answer: RecommendResponse, position: int, action: str) -> str:
        item_id = answer.items[position].item_id
        event = FeedbackEvent(request_id=answer.request_id, item_id=item_id, action=action)
        assert (await self.gateway.feedback([event], listed=False)).accepted == 1
        return item_id

    def logged(self, request_id: str) -> list[dict[str, Any]]:
        payloads = [payload for segment in segments(self.folder) for payload in read_frames(segment.path).payloads]
        rows = [row for payload in payloads for row in rows_of(payload).get("requests", ())]
        return [row for row in rows if row["request_id"] == request_id]


def test_what_a_user_did_counts_at_the_next_request_anywhere(
    store: Store, recommender: Recommender, home: str, tmp_path: Path, user_id: str
):
    first = store()
    second = first if isinstance(first, MemorySessions) else store()
    one, other = (Service(recommender, home, tmp_path, each) for each in (first, second))

    async def answers() -> tuple[RecommendResponse, str, str, RecommendResponse]:
        before = await one.shown(user_id)
        liked, skipped = await one.act(before, 2, "liked"), await one.act(before, 0, "skipped")
        return before, liked, skipped, await other.shown(user_id, exclude=(before.items[1].item_id,))

    before, liked, skipped, after_it = asyncio.run(answers())
    assert before.session is not None and before.session.recent == []
    assert after_it.session is not None and set(after_it.session.recent) == {liked, skipped}
    assert after_it.session.counts == {"liked": 1, "skipped": 1}
    assert {item.item_id for item in after_it.items}.isdisjoint([liked, skipped, before.items[1].item_id])
    (earlier,), (later,) = one.logged(before.request_id), one.logged(after_it.request_id)
    assert later["history"][-1] == liked and skipped not in later["history"]
    assert later["history"][:-1] == earlier["history"][len(earlier["history"]) - len(later["history"]) + 1 :]
    assert json.loads(earlier["context"]) == {}
    assert set(json.loads(later["context"])[EXCLUDED]) == {liked, skipped, before.items[1].item_id}


def test_one_never_seen_is_known_by_a_first_like(recommender: Recommender, home: str, tmp_path: Path):
    service = Service(recommender, home, tmp_path, MemorySessions(SessionsConfig()))

    async def sources() -> list[set[str]]:
        found = []
        for _ in range(2):
            answer = await service.shown("never seen")
            assert not answer.user_known
            found.append({item.source for item in answer.items})
            await service.act(answer, 0, "watched")
        return found

    first, second = asyncio.run(sources())
    assert asyncio.run(service.gateway.check()) == ["tables"], "nobody takes the log into them here"
    assert first == {recommender.popularity.name} and recommender.popularity.name not in second


@pytest.mark.parametrize("in_tables", [False, True])
def test_a_duplicate_counts_as_what_was_accepted_and_nothing_else(
    recommender: Recommender, home: str, tmp_path: Path, in_tables: bool
):
    """Whatever it says now, and though the session was lost or the server is another since."""
    service = Service(recommender, home, tmp_path, MemorySessions(SessionsConfig()))

    def sent(to: Service, answer: RecommendResponse, position: int, action: str) -> Awaitable[FeedbackResponse]:
        event = FeedbackEvent(
            request_id=answer.request_id, item_id=answer.items[position].item_id, action=action, event_id="c1"
        )
        return to.gateway.feedback([event], listed=False)

    async def session(of: Service) -> dict[str, int]:
        report = (await of.shown("a")).session
        assert report is not None
        return report.counts

    async def asked() -> None:
        answer = await service.shown("a")
        assert (await sent(service, answer, 0, "skipped")).accepted == 1
        for position in (0, 1):
            assert (await sent(service, answer, position, "liked")).duplicates == 1
        assert await session(service) == {"skipped": 1}
        if in_tables:
            committer = Committer(tmp_path, service.events)
            committer.commit()
            committer.close()
            for segment in segments(tmp_path):
                segment.path.unlink()
        another = Service(recommender, home, tmp_path, MemorySessions(SessionsConfig()))
        assert (await sent(another, answer, 1, "liked")).duplicates == 1
        assert await session(another) == {"skipped": 1}

    asyncio.run(asked())


class Broken:
    """A store that does neither."""

    async def session(self, user_id: str) -> Session:
        raise ConnectionError(user_id)

    async def add(self, user_id: str, acts: object) -> None:
        raise ConnectionError(user_id)


def test_without_its_store_a_request_is_answered_and_feedback_kept(recommender: Recommender, home: str, tmp_path: Path):
    service = Service(recommender, home, tmp_path, Broken())

    async def answers() -> RecommendResponse:
        assert await service.gateway.check() == ["tables", "sessions"]
        await service.act(await service.shown("a"), 0, "liked")
        return await service.shown("a")

    answer = asyncio.run(answers())
    assert answer.items and answer.session is not None and answer.session.recent == []
