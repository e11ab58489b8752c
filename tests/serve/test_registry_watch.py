"""Following CURRENT: what is good takes over, what is bad is refused by name, and what serves goes on."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from rec.bundle import BundleDetails
from rec.errors import BundleError
from rec.registry import CURRENT, Registry
from rec.storage import Home
from serve.loaded import LoadedModels
from serve.registry_watch import RETRY_S, RegistryWatch

DETAILS = BundleDetails(config={}, seed=0, schema_sha256="5" * 64)


class Service:
    """What a watch switches: takes over what `broken` does not name."""

    def __init__(self, registry: Registry, version: str) -> None:
        self.taken: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.now = 0.0
        self.watch = RegistryWatch(registry, version, self.take_over, clock=lambda: self.now)

    async def take_over(self, version: str) -> None:
        if version in self.broken:
            raise self.broken[version]
        self.taken.append(version)

    def look(self) -> None:
        asyncio.run(self.watch.look())


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Home(tmp_path))


@pytest.fixture
def versions(registry: Registry) -> list[str]:
    def fill(folder: Path) -> None:
        (folder / "encoders.json").write_text("{}")

    return [registry.publish(fill, DETAILS) for _ in range(3)]


@pytest.fixture
def service(registry: Registry, versions: list[str]) -> Service:
    registry.promote(versions[0])
    return Service(registry, versions[0])


def test_what_becomes_current_takes_over_once(service: Service, registry: Registry, versions: list[str]):
    service.look()
    assert service.taken == []
    for version in (versions[1], versions[2]):
        registry.promote(version)
        service.look()
        service.look()
        assert service.watch.version == version
    registry.rollback()
    service.look()
    assert service.taken == [versions[1], versions[2], versions[1]]
    assert service.watch.refused is None


def test_a_bad_version_is_refused_and_reported_once(
    service: Service, registry: Registry, versions: list[str], caplog: pytest.LogCaptureFixture
):
    service.broken[versions[1]] = BundleError("its models are of wood", file="ranker.lgb.txt")
    registry.promote(versions[1])
    for _ in range(5):
        service.look()
    refused = service.watch.refused
    assert refused is not None and refused.version == versions[1] and "of wood" in refused.reason
    assert (service.watch.version, service.taken) == (versions[0], [])
    assert sum("of wood" in record.message for record in caplog.records) == 1
    registry.promote(versions[2])
    service.look()
    assert service.taken == [versions[2]] and service.watch.refused is None


def test_a_refused_version_is_tried_again_after_a_time(service: Service, registry: Registry, versions: list[str]):
    service.broken[versions[1]] = OSError("the network is down")
    registry.promote(versions[1])
    service.look()
    service.broken.clear()
    service.now = RETRY_S - 1
    service.look()
    assert service.taken == []
    service.now = RETRY_S
    service.look()
    assert service.taken == [versions[1]] and service.watch.refused is None


def test_going_back_to_what_serves_clears_the_refusal(service: Service, registry: Registry, versions: list[str]):
    service.broken[versions[1]] = ValueError("no")
    registry.promote(versions[1])
    service.look()
    assert service.watch.refused is not None
    registry.rollback()
    service.look()
    assert service.watch.refused is None and service.taken == []


@pytest.mark.parametrize("content", [b"", b"one\ntwo\n", b"../../etc\n", b"\xff"])
def test_a_damaged_pointer_changes_nothing(service: Service, registry: Registry, content: bytes):
    registry.home.write(CURRENT, content)
    service.look()
    refused = service.watch.refused
    assert refused is not None and refused.version is None and "CURRENT" in refused.reason
    assert service.taken == []


def test_a_home_that_loses_its_pointer_changes_nothing_and_says_so(
    service: Service, registry: Registry, versions: list[str], tmp_path: Path
):
    (tmp_path / CURRENT).unlink()
    service.look()
    refused = service.watch.refused
    assert refused is not None and refused.version is None and "CURRENT is gone" in refused.reason
    assert (service.taken, service.watch.version) == ([], versions[0])
    registry.promote(versions[0])
    service.look()
    assert service.watch.refused is None


def test_following_ends_when_cancelled_and_looks_meanwhile(service: Service, registry: Registry, versions: list[str]):
    async def followed() -> None:
        task = asyncio.create_task(service.watch.follow(0.001))
        registry.promote(versions[1])
        async with asyncio.timeout(30):
            while not service.taken:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(followed())
    assert service.taken == [versions[1]]


def test_however_many_ask_a_model_is_loaded_once_and_the_least_used_is_forgotten():
    loaded: list[str] = []
    go_on = threading.Event()

    def load(version: str) -> str:
        go_on.wait(30)
        loaded.append(version)
        return f"model {version}"

    async def ask() -> None:
        models = LoadedModels(load, capacity=2)
        together = [asyncio.create_task(models.get("a")) for _ in range(5)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*together) == ["model a"] * 5
        for version in ("b", "a", "c", "a", "b"):
            assert await models.get(version) == f"model {version}"

    asyncio.run(ask())
    assert loaded == ["a", "b", "c", "b"]


def test_a_model_that_did_not_load_is_loaded_anew():
    calls: list[str] = []

    def load(version: str) -> Any:
        calls.append(version)
        if len(calls) == 1:
            raise BundleError("damaged")
        return version

    async def ask() -> None:
        models = LoadedModels(load, capacity=1)
        with pytest.raises(BundleError):
            await models.get("a")
        assert await models.get("a") == "a"

    asyncio.run(ask())
    assert calls == ["a", "a"]
