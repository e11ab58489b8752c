"""Models that change under a running service: every answer is of one version, and no request fails."""

import asyncio
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from rec.bundle import MANIFEST, BundleDetails
from rec.data.events import open_events
from rec.recommender import ITEMS_FILE, Recommender
from rec.registry import CURRENT, Registry
from rec.storage import Home
from serve.arms import Arms
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.deployments import take_over
from serve.load import post_all
from serve.registry_watch import RETRY_S, RegistryWatch
from serve.request_log import RequestLog
from serve.stages import Stages

Deploy = Callable[[str, ServeConfig], str]


@pytest.fixture
def own_home(home: str, tmp_path: Path) -> str:
    """A home of this test alone, with the same bundle twice."""
    own = tmp_path / "home"
    shutil.copytree(Path(home) / "models", own / "models")
    registry = Registry(Home(own))
    published_again(registry, registry.open().version)
    return str(own)


def published_again(registry: Registry, version: str) -> str:
    bundle = registry.open(version)

    def fill(folder: Path) -> None:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path(name), folder)

    details = bundle.manifest.model_dump(include=set(BundleDetails.model_fields))
    return registry.publish(fill, BundleDetails(**details))


def damaged(registry: Registry) -> str:
    """A version that was damaged after it was published; CURRENT names it, as no promotion would."""
    version = published_again(registry, registry.versions()[0])
    file = registry.open(version).path(ITEMS_FILE)
    file.write_bytes(file.read_bytes()[:-1])
    registry.home.write(CURRENT, f"{version}\n".encode())
    return version


def wait_for(what: str, found: Callable[[], bool]) -> None:
    deadline = monotonic() + 90
    while not found():
        assert monotonic() < deadline, f"in vain: {what}"
        sleep(0.05)


def version_of(address: str, user_id: str) -> str:
    response = httpx.post(f"{address}/v1/recommend", json={"user_id": user_id, "n": 3}, timeout=60)
    assert response.status_code == 200, response.text
    assert len(response.json()["items"]) == 3
    return response.json()["policy_version"]


@pytest.mark.parametrize("layout", ["single", pytest.param("distributed", marks=pytest.mark.slow)])
def test_what_becomes_current_answers_and_what_is_damaged_does_not(
    deploy: Deploy, own_home: str, user_id: str, layout: Any
):
    registry = Registry(Home(own_home))
    first, second = registry.versions()
    config = ServeConfig(
        home=own_home, layout=layout, watch_s=0.1, replica_cpus=0.05, log=LogConfig(enabled=False), deadline_s=60
    )
    address = deploy(f"swap-{layout}", config)
    assert version_of(address, user_id) == first

    registry.promote(second)
    wait_for("the new version answers", lambda: version_of(address, user_id) == second)

    bad = damaged(registry)
    ready = f"{address}/health/ready"
    wait_for("the damaged one is reported", lambda: httpx.get(ready, timeout=60).json().get("refused") == bad)
    assert httpx.get(ready, timeout=60).status_code == 200
    models = httpx.get(f"{address}/v1/models", timeout=60).json()
    assert ITEMS_FILE in models["refused"] and models["serving"] == models["arms"]["champion"] == second
    assert version_of(address, user_id) == second

    registry.promote(first)
    wait_for("the good one answers", lambda: version_of(address, user_id) == first)
    assert "refused" not in httpx.get(ready, timeout=60).json()


def test_a_storage_that_fails_once_a_version_is_loaded_switches_nothing(own_home: str, recommender: Recommender):
    """Its manifest, which says what feedback it takes, cannot be read: the watch says what serves, and may go back."""
    registry = Registry(Home(own_home))
    first, second = registry.versions()
    config = ServeConfig(home=own_home)
    stages = Stages.here(recommender, config)
    arms, log = Arms.of_config(config, first, {first: stages}), RequestLog.open(config, [first])
    manifest, clock, fails = Path(own_home) / "models" / second / MANIFEST, [0.0], [True]
    content = manifest.read_bytes()

    async def load_and_switch(version: str) -> None:
        registry.open(version)
        if fails[0]:
            manifest.unlink()
        await take_over(version, stages, arms, log)

    watch = RegistryWatch(registry, first, load_and_switch, clock=lambda: clock[0])

    def answering() -> list[str]:
        asyncio.run(watch.look())
        return [watch.version, *arms.versions]

    registry.promote(second)
    assert answering() == [first, first] and watch.refused is not None and watch.refused.version == second
    manifest.write_bytes(content)
    fails[0] = False
    clock[0] += RETRY_S
    assert answering() == [second, second] and watch.refused is None
    registry.rollback()
    assert answering() == [first, first]
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["single", "distributed"])
def test_a_swap_every_two_seconds_fails_no_request(
    deploy: Deploy, own_home: str, recommender: Recommender, layout: Any
):
    registry = Registry(Home(own_home))
    config = ServeConfig(
        home=own_home,
        layout=layout,
        replicas=2 if layout == "single" else 1,
        watch_s=0.1,
        replica_cpus=0.05,
        policy=PolicyConfig(epsilon=0.1, temperature=0.5),
        deadline_s=60,
        log=LogConfig(commit_s=0.5),
    )
    address = deploy(f"swaps-{layout}", config)
    users = [str(user_id) for user_id in recommender.snapshot.user_ids]
    stopping = threading.Event()

    def swap() -> None:
        number = 0
        while not stopping.wait(2.0):
            number += 1
            registry.promote(registry.versions()[number % 2])

    swapping = threading.Thread(target=swap)
    swapping.start()
    answers: list[dict[str, Any]] = []
    statuses: Counter[int] = Counter()
    try:
        began = monotonic()
        while monotonic() - began < 30:
            bodies = [json.dumps({"user_id": user_id, "n": 3}).encode() for user_id in users]
            replies = asyncio.run(post_all(f"{address}/v1/recommend", bodies, clients=4))
            statuses.update(reply.status for reply in replies)
            answers += [json.loads(reply.body) for reply in replies if reply.status == 200]
    finally:
        stopping.set()
        swapping.join()
    assert set(statuses) == {200}, statuses
    versions = [answer["policy_version"] for answer in answers]
    changes = sum(before != after for before, after in pairwise(versions))
    assert set(versions) == set(registry.versions()) and changes >= 4

    events = open_events(own_home)
    wait_for("the log has all", lambda: len(events.read("requests", columns=["request_id"])) >= len(answers))
    logged = {row["request_id"]: row["policy_version"] for row in events.read("requests").to_pylist()}
    assert logged == {answer["request_id"]: answer["policy_version"] for answer in answers}
