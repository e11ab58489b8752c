"""A service whose model is swapped, or whose processes are killed, while people use it: one command each.

    python -m pytest -m slow tests/serve/test_faults.py -s -k swap        CURRENT changes every 5 s for a minute
    python -m pytest -m slow tests/serve/test_faults.py -s -k gateway     kill -9 of one of two replicas every 10 s
    python -m pytest -m slow tests/serve/test_faults.py -s -k log         kill -9 of the process that writes the tables

First people use it as fast as it answers, then at half that rate while it happens. A request that fails is sent once
more, under the same idempotency key, as `tandem simulate` does; none may fail then. Afterwards the tables must hold
every answer and every acknowledged event exactly once, and nothing else.
"""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Final

import numpy as np
import psutil
import pytest

from rec.bundle import BundleDetails
from rec.cli.simulate import FEEDBACK, RECOMMEND, HttpService
from rec.data.events import open_events
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.people import People
from serve.config import LogConfig, ServeConfig, SessionsConfig
from serve.load import Reply

CLIENTS: Final = 8
SLATE: Final = 4
WARM_UP_S: Final = 10.0
TROUBLE_S: Final = 60.0
PATIENCE_S: Final = 180.0
KNOWN_S: Final = 3.0  # until the proxy sends requests to a replica that has become ready
WORLD: Final = InstaTokConfig(n_users=60, n_videos=300, seed=1)
REWARDS: Final = {"watched": 1.0, "skipped": -2.0, "liked": 2.0, "other": -0.5}


class Pace:
    """Lets so many requests a second begin, at even distances; all at once without a rate."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._next = 0.0

    async def wait(self) -> None:
        """Returns when it is the turn of one more."""
        if self._rate is None:
            return
        now = perf_counter()
        self._next = max(self._next, now) + 1 / self._rate
        await asyncio.sleep(self._next - now)


class Remembering:
    """A service, and what it answered and acknowledged."""

    def __init__(self, service: HttpService, pace: Pace) -> None:
        self._service = service
        self._pace = pace
        self.shown: dict[str, list[str]] = {}
        self.acknowledged: dict[tuple[str, str], str] = {}

    async def recommend(self, user_id: str, n: int) -> tuple[str, Sequence[str]]:
        await self._pace.wait()
        request_id, item_ids = await self._service.recommend(user_id, n)
        self.shown[request_id] = list(item_ids)
        return request_id, item_ids

    async def feedback(self, request_id: str, acts: Sequence[tuple[str, str]]) -> None:
        await self._pace.wait()
        await self._service.feedback(request_id, acts)
        self.acknowledged |= {(request_id, item_id): action for item_id, action in acts}

    def close(self) -> None:
        """Ends the connection."""
        self._service.close()


def processes(application: str, deployment: str) -> set[int]:
    """The processes of a deployment."""
    name = f"ServeReplica:{application}:{deployment}"
    return {each.pid for each in psutil.process_iter(["cmdline"]) if name in " ".join(each.info["cmdline"] or [])}


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < deadline, what
        sleep(0.1)


def n_running(application: str, deployment: str) -> int:
    """How many replicas of a deployment are ready to answer, as Serve knows."""
    from ray import serve as ray_serve

    states = ray_serve.status().applications[application].deployments[deployment].replica_states
    return sum(n for state, n in states.items() if state == "RUNNING")


def kills(application: str, deployment: str, n_processes: int) -> Iterator[None]:
    """Kills one process of a deployment each time, once as many as there should be have been ready for a while."""
    since = monotonic()

    def all_answer() -> bool:
        nonlocal since
        if not len(processes(application, deployment)) == n_running(application, deployment) == n_processes:
            since = monotonic()
        return monotonic() - since > KNOWN_S

    while True:
        wait_until(all_answer, f"no other {deployment} is started")
        os.kill(min(processes(application, deployment)), signal.SIGKILL)
        yield


def swaps(home: str) -> Iterator[None]:
    """Lets CURRENT name the other of two versions each time."""
    registry = Registry(Home(home))
    for version in cycle(reversed(registry.versions())):
        registry.promote(version)
        yield


def published_again(home: str) -> None:
    """The same model as another version, which is not CURRENT."""
    registry = Registry(Home(home))
    bundle = registry.open()

    def fill(folder: Path) -> None:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path(name), folder)

    registry.publish(fill, BundleDetails(**bundle.manifest.model_dump(include=set(BundleDetails.model_fields))))


@dataclass
class Use:
    """What people asked for, what they were shown, and what they said of it that was acknowledged."""

    shown: dict[str, list[str]]
    acknowledged: dict[tuple[str, str], str]
    replies: dict[str, list[Reply | None]]
    n_cut_off: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return sum(map(len, self.replies.values())) / self.seconds

    def told(self) -> str:
        """How many requests there were, which failed at first, and how long they took."""
        parts = []
        for path, replies in self.replies.items():
            answered = [reply for reply in replies if reply is not None]
            again = sum(reply.attempts > 1 for reply in answered)
            failed = len(replies) - sum(reply.status < 300 for reply in answered)
            degraded = sum(b'"degraded":true' in reply.body for reply in answered)
            p50, p99 = np.percentile([(reply.ended - reply.started) * 1000 for reply in answered], (50, 99))
            parts.append(
                f"{path}: {len(replies):,}, {again} failed at first, {failed} again, {degraded} degraded;"
                f" p50 {p50:.1f}, p99 {p99:.0f} ms"
            )
        return "; ".join(parts)


def use(address: str, over: Callable[[], bool], rate: float | None = None) -> Use:
    """Lets people of the world come to a service until it is over, and whoever is there finish their visit."""
    replies: dict[str, list[Reply | None]] = {RECOMMEND: [], FEEDBACK: []}
    pace, world = Pace(rate), InstaTok(WORLD)

    async def visit() -> tuple[list[Remembering], int]:
        services = [Remembering(HttpService(address, replies), pace) for _ in range(CLIENTS)]
        n_cut_off = n_visits = 0
        while not over():
            visits = await People(world, n_visits).visit_all(services, 2 * CLIENTS, SLATE)
            n_visits += len(visits)
            n_cut_off += sum(visit.cut_off for visit in visits)
        for service in services:
            service.close()
        return services, n_cut_off

    began = perf_counter()
    services, n_cut_off = asyncio.run(visit())
    seconds = perf_counter() - began
    return Use(
        {request_id: items for service in services for request_id, items in service.shown.items()},
        {key: action for service in services for key, action in service.acknowledged.items()},
        replies,
        n_cut_off,
        seconds,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("trouble", "every_s"), [("swap", 5.0), ("gateway", 10.0), ("log", 10.0)])
def test_nothing_is_lost_or_doubled(
    deploy: Callable[[str, ServeConfig], str], home: str, tmp_path: Path, trouble: str, every_s: float
):
    from ray import serve as ray_serve

    own = str(shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("events", "spool", "runs")))
    published_again(own)
    application = f"faults-{trouble}"
    config = ServeConfig(
        home=own,
        replicas=2,
        replica_cpus=0.05,
        rewards=REWARDS,
        log=LogConfig(commit_s=0.5),
        sessions=SessionsConfig(max_acts=20),
    )
    address = deploy(application, config)
    happening = swaps(own) if trouble == "swap" else kills(application, trouble, 2 if trouble == "gateway" else 1)

    def happen() -> int:
        end, n_happened = monotonic() + TROUBLE_S, 0
        while monotonic() < end:
            sleep(every_s)
            next(happening)
            n_happened += 1
        return n_happened

    began = monotonic()
    before = use(address, lambda: monotonic() - began > WARM_UP_S)
    with ThreadPoolExecutor(1) as beside:
        task = beside.submit(happen)
        during = use(address, task.done, rate=before.rate / 2)
    shown, acknowledged = before.shown | during.shown, before.acknowledged | during.acknowledged
    print(
        f"\n{trouble}: {task.result()} in {during.seconds:.0f} s at {during.rate:.0f} requests a second of "
        f"{before.rate:.0f}\n{during.told()}"
    )

    events = open_events(own)
    wait_until(
        lambda: (
            len(events.read("impressions")) >= sum(map(len, shown.values()))
            and len(events.read("feedback")) >= len(acknowledged)
        ),
        "the tables do not get all",
    )
    ray_serve.delete(application)  # whatever is still to be committed is committed before that returns
    requests, feedback = events.read("requests").to_pylist(), events.read("feedback").to_pylist()
    impressions = events.read("impressions").to_pylist()
    print(f"in the tables: {len(requests):,} answers, {len(impressions):,} impressions, {len(feedback):,} events")
    assert before.n_cut_off == during.n_cut_off == 0, "every request was answered, at the second time at the latest"
    assert Counter(row["request_id"] for row in requests) == Counter(shown.keys())
    assert Counter((row["request_id"], row["position"], row["item_id"]) for row in impressions) == Counter(
        (request_id, place, item_id) for request_id, items in shown.items() for place, item_id in enumerate(items)
    )
    assert Counter((row["request_id"], row["item_id"], row["action"]) for row in feedback) == Counter(
        (*key, action) for key, action in acknowledged.items()
    )
