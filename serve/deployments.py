"""The thin Ray Serve deployments around the gateway and the stages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rec.data.events import EventTables
from rec.errors import ConfigError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.claims import Claims
from serve.commit_loop import CommitLoop
from serve.committer import Committer
from serve.config import ServeConfig, SessionsConfig
from serve.gateway import Gateway
from serve.guard import Guard
from serve.hydrate import HydrateStage
from serve.json_log import log_as_json
from serve.loaded import LoadedModels
from serve.metrics import WRITE_S, SharedMetrics
from serve.problems import busy
from serve.ranker import RankerStage
from serve.registry_watch import RegistryWatch
from serve.request_log import RequestLog, spool_folder
from serve.retriever import RetrieverStage
from serve.select import SelectStage
from serve.sessions import Act, MemorySessions, RedisSessions, Session, Sessions
from serve.stages import Stages, check

STAGES: Final = ("hydrate", "retriever", "ranker", "select")
# What runs takes milliseconds, so a stopping replica need not wait long for it.
SHUTDOWN_S: Final = 2.0
REFUSED_AT_A_TIME: Final = 64
_SESSION_CALLS: Final = 1_000
_LOGGER: Final = logging.getLogger(__name__)
# What there is one of works some milliseconds a second, and must be there whatever else is.
_ALONE: Final = {
    "num_replicas": 1,
    "ray_actor_options": {"num_cpus": 0},
    "health_check_period_s": 1,
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": SHUTDOWN_S,
}


def application(config: ServeConfig, version: str) -> Application:
    """The deployments of a layout, on one version of the model until CURRENT names another.

    Args: config: its `home` must mean the same on every machine of the cluster. version: of the bundle.
    """
    replica = {
        # Some more than are answered at a time, so that it is the gateway that says it is too much, and when to come.
        "max_ongoing_requests": config.max_ongoing_requests + REFUSED_AT_A_TIME,
        "ray_actor_options": {"num_cpus": config.replica_cpus},
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": SHUTDOWN_S,
    }
    gateway = ray_serve.deployment(name="gateway", num_replicas=config.replicas, **replica)(GatewayDeployment)
    beside = {}
    if config.log.enabled:
        beside["log"] = ray_serve.deployment(name="log", **_ALONE)(LogDeployment).bind(config)
        if config.sessions.enabled and config.sessions.url is None:
            memory = ray_serve.deployment(name="sessions", max_ongoing_requests=_SESSION_CALLS, **_ALONE)
            beside["sessions"] = memory(SessionsDeployment).bind(config.sessions)
    if config.layout == "single":
        return gateway.bind(config, version, **beside)
    stage = ray_serve.deployment(num_replicas=config.stage_replicas, **replica)(StageDeployment)
    stages = {name: stage.options(name=name).bind(name, config, version) for name in STAGES}
    return gateway.bind(config, version, **beside, **stages)


@ray_serve.ingress()
class GatewayDeployment:
    """The HTTP front: with all stages inside, or with handles to stages elsewhere."""

    async def __init__(
        self,
        config: ServeConfig,
        version: str,
        log: DeploymentHandle | None = None,
        sessions: DeploymentHandle | None = None,
        **stages: DeploymentHandle,
    ) -> None:
        log_as_json(config.log_level)

        async def load(wanted: str) -> Stages:
            if stages:
                remote = remote_stages(stages, wanted)
                await check(remote, config.policy)
                return remote
            return await asyncio.to_thread(lambda: Stages.here(Recommender.load(config.home, wanted), config))

        async def load_and_switch(wanted: str) -> None:
            await take_over(wanted, await load(wanted), self._arms, self._log)

        loaded = {wanted: await load(wanted) for wanted in config.versions(version)}
        self._arms = Arms.of_config(config, version, loaded)
        # The two meet in the spool alone, so that neither waits for the other.
        # A spool that tables did not take for long is large, and opening reads it.
        self._log = None if log is None else await asyncio.to_thread(RequestLog.open, config, self._arms.versions)
        registry = Registry(Home(config.home))
        watch = RegistryWatch(registry, version, load_and_switch)
        shared = shared_metrics(config)
        own = _sessions(config, sessions)
        gateway = Gateway(self._arms, registry, self._log, watch, own, shared.own, config.batch_size)
        guard = Guard(config)
        self._api = Api(gateway, config, guard, shared)
        self._tasks = [asyncio.create_task(guard.follow()), asyncio.create_task(_give_out(gateway, shared))]
        if config.version is None:
            self._tasks.append(asyncio.create_task(watch.follow(config.watch_s)))

    def __del__(self) -> None:
        if (log := getattr(self, "_log", None)) is not None:
            log.close()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api


async def take_over(version: str, stages: Stages, arms: Arms, log: RequestLog | None) -> None:
    """Lets a version that is loaded answer, and its feedback be taken: both, or on an error neither.

    Raises: BundleError: when the storage fails, which is asked before anything is switched.
    """
    actions = None if log is None else await asyncio.to_thread(log.actions_of, arms.versions_with(version))
    arms.switch(version, stages)
    if log is not None:
        log.allow(actions)


async def _give_out(gateway: Gateway, shared: SharedMetrics) -> None:
    """Writes the numbers of a gateway for all to read, at intervals, until cancelled."""
    while True:
        await asyncio.sleep(WRITE_S)
        try:
            gateway.measure()
            await asyncio.to_thread(shared.write, shared.own.to_json())
        except OSError:
            _LOGGER.exception("metrics are not written")


def shared_metrics(config: ServeConfig) -> SharedMetrics:
    """The numbers of all processes of a service, beside its spool; without a place for that each has its own alone."""
    try:
        return SharedMetrics(spool_folder(config))
    except ConfigError:
        return SharedMetrics(None)


@final
class LogDeployment:
    """The one process that takes the log into the tables; Serve starts another when it ends or does not do so."""

    def __init__(self, config: ServeConfig) -> None:
        log_as_json(config.log_level)
        folder = spool_folder(config)
        committer = Committer(folder, EventTables(Home(config.home)))
        claims = Claims(folder, config.log.idempotency_s)
        self._loop = CommitLoop(committer, claims, shared_metrics(config), config.log.commit_s)
        self._loop.start()

    def check_health(self) -> None:
        """Raises: RuntimeError: as `CommitLoop.check`; Serve then starts another process."""
        self._loop.check()

    def __del__(self) -> None:
        if hasattr(self, "_loop"):
            self._loop.stop(SHUTDOWN_S)


@final
class SessionsDeployment:
    """The one process that remembers sessions; what it knew is forgotten when it ends."""

    async def __init__(self, config: SessionsConfig) -> None:
        self._sessions = MemorySessions(config)
        self._following = asyncio.create_task(self._sessions.follow())

    async def session(self, user_id: str) -> Session:
        """What a user did."""
        return await self._sessions.session(user_id)

    async def add(self, user_id: str, acts: Sequence[Act]) -> None:
        """Adds acts of a user."""
        await self._sessions.add(user_id, acts)


@contextmanager
def cut_off_is_busy() -> Iterator[None]:
    """Makes a failure of a call that Serve has ended, which raises CancelledError though who waits is not cancelled.

    Raises: ProblemError: 503, for such a call.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise busy("the answer was cut off; send the request again") from error


@final
class _RemoteSessions:
    """The sessions of a deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle.options(_by_reference=False)

    async def session(self, user_id: str) -> Session:
        """See `SessionStore`."""
        with cut_off_is_busy():
            return await self._handle.session.remote(user_id)

    async def add(self, user_id: str, acts: Sequence[Act]) -> None:
        """See `SessionStore`."""
        with cut_off_is_busy():
            await self._handle.add.remote(user_id, acts)


def _sessions(config: ServeConfig, handle: DeploymentHandle | None) -> Sessions | None:
    """What a gateway remembers sessions with; without a log there is no feedback, and so none."""
    if handle is not None:
        return Sessions(_RemoteSessions(handle), config.sessions.timeout_s)
    if config.log.enabled and config.sessions.enabled:
        return Sessions(RedisSessions(config.sessions), config.sessions.timeout_s)
    return None


@final
class StageDeployment:
    """One stage, on bundles of its own: of the versions that answer, and the one that did before."""

    async def __init__(self, name: str, config: ServeConfig, version: str) -> None:
        log_as_json(config.log_level)
        seeds = np.random.SeedSequence(config.seed)

        def load(wanted: str) -> Callable[..., Any]:
            recommender = Recommender.load(config.home, wanted)
            match name:
                case "hydrate":
                    return HydrateStage(recommender)
                case "retriever":
                    return RetrieverStage(recommender)
                case "ranker":
                    return RankerStage(recommender)
                case _:
                    return SelectStage(recommender, seeds, logged=config.log.enabled)

        async def keep(wanted: str) -> None:
            await self._stages.get(wanted)

        versions = config.versions(version)
        self._stages = LoadedModels(load, capacity=len(versions) + 1)
        for wanted in versions:
            await keep(wanted)
        watch = RegistryWatch(Registry(Home(config.home)), version, keep)
        self._following = None if config.version else asyncio.create_task(watch.follow(config.watch_s))

    async def __call__(self, version: str, *args: Any) -> Any:
        """Does what the stage of a version does."""
        return (await self._stages.get(version))(*args)

    async def ask(self, version: str, what: str, *args: Any) -> Any:
        """What the stage of a version can do beside that, by the name of its method."""
        return getattr(await self._stages.get(version), what)(*args)


def remote_stages(handles: dict[str, DeploymentHandle], version: str) -> Stages:
    """The stages of a version in deployments of their own, by name.

    Values go with the call: they are a few kilobytes, and a way through the object store costs two milliseconds. A call
    whose replica dies is made once more: stages change nothing, and another replica may be there. One that Serve ends
    is a `ProblemError`.
    """
    called = {name: handle.options(_by_reference=False) for name, handle in handles.items()}

    def of(stage: str, *args: str) -> Callable[..., Awaitable[Any]]:
        remote = called[stage].ask.remote if args else called[stage].remote

        async def call(*more: Any) -> Any:
            with cut_off_is_busy():
                try:
                    return await remote(version, *args, *more)
                except RayActorError:
                    return await remote(version, *args, *more)

        return call

    return Stages(
        hydrate=of("hydrate"),
        item=of("hydrate", "item"),
        users=of("hydrate", "users"),
        names=of("hydrate", "names"),
        retrieve=of("retriever"),
        rank=of("ranker"),
        unranked=of("retriever", "unranked"),
        select=of("select"),
    )
