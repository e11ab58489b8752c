"""The thin Ray Serve deployments around the gateway and the stages."""

import threading
from typing import Any, Final, final

import numpy as np
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rec.data.events import EventTables
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.claims import Claims
from serve.committer import Committer, commit_for_ever
from serve.config import ServeConfig
from serve.gateway import Gateway, Stages
from serve.hydrate import HydrateStage
from serve.ranker import RankerStage
from serve.request_log import RequestLog, spool_folder
from serve.retriever import RetrieverStage
from serve.select import SelectStage

STAGES: Final = ("hydrate", "retriever", "ranker", "select")
# What runs takes milliseconds, so a stopping replica need not wait long for it.
SHUTDOWN_S: Final = 2.0
# It works some milliseconds a second, and must be there whatever else is.
_LOG: Final = {
    "num_replicas": 1,
    "ray_actor_options": {"num_cpus": 0},
    "health_check_period_s": 1,
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": SHUTDOWN_S,
}


def application(config: ServeConfig, version: str) -> Application:
    """The deployments of a layout, all on one version of the model.

    Args: config: its `home` must mean the same on every machine of the cluster. version: of the bundle.
    """
    replica = {
        "max_ongoing_requests": config.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": config.replica_cpus},
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": SHUTDOWN_S,
    }
    gateway = ray_serve.deployment(name="gateway", num_replicas=config.replicas, **replica)(GatewayDeployment)
    log = {"log": ray_serve.deployment(name="log", **_LOG)(LogDeployment).bind(config)} if config.log.enabled else {}
    if config.layout == "single":
        return gateway.bind(config, version, **log)
    stage = ray_serve.deployment(num_replicas=config.stage_replicas, **replica)(StageDeployment)
    stages = {name: stage.options(name=name).bind(name, config, version) for name in STAGES}
    return gateway.bind(config, version, **log, **stages)


@ray_serve.ingress()
class GatewayDeployment:
    """The HTTP front: with all stages inside, or with handles to stages elsewhere."""

    def __init__(
        self, config: ServeConfig, version: str, log: DeploymentHandle | None = None, **stages: DeploymentHandle
    ) -> None:
        called = remote_stages(stages) if stages else Stages.here(Recommender.load(config.home, version), config)
        # The two meet in the spool alone, so that neither waits for the other.
        self._log = None if log is None else RequestLog.open(config, version)
        gateway = Gateway(called, Registry(Home(config.home)), version, self._log)
        self._api = Api(gateway, max_body_bytes=config.max_body_bytes, body_timeout_s=config.body_timeout_s)

    def __del__(self) -> None:
        if (log := getattr(self, "_log", None)) is not None:
            log.close()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api


@final
class LogDeployment:
    """The one process that takes the log into the tables; Serve starts another when it ends or does not do so."""

    def __init__(self, config: ServeConfig) -> None:
        folder = spool_folder(config)
        self._stopping = threading.Event()
        self._committer = Committer(folder, EventTables(Home(config.home)))
        claims = Claims(folder, config.log.idempotency_s)
        self._thread = threading.Thread(
            target=commit_for_ever,
            args=(self._committer, config.log.commit_s, self._stopping),
            kwargs={"sweep": claims.sweep},
            name="tandem-log-commit",
            daemon=True,
        )
        self._thread.start()

    def check_health(self) -> None:
        """Raises: RuntimeError: when the thread has ended."""
        if not self._thread.is_alive():
            raise RuntimeError("the thread that takes the log into the tables has ended")

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self._stopping.set()
            self._thread.join(SHUTDOWN_S)


@final
class StageDeployment:
    """One stage, on a bundle of its own."""

    def __init__(self, name: str, config: ServeConfig, version: str) -> None:
        recommender = Recommender.load(config.home, version)
        match name:
            case "hydrate":
                self._stage = HydrateStage(recommender)
            case "retriever":
                self._stage = RetrieverStage(recommender)
            case "ranker":
                self._stage = RankerStage(recommender)
            case _:
                seeds = np.random.SeedSequence(config.seed)
                self._stage = SelectStage(recommender, config.policy, seeds, logged=config.log.enabled)

    async def __call__(self, *args: Any) -> Any:
        """Does what the stage does."""
        return self._stage(*args)

    async def item(self, item_id: str) -> dict[str, Any] | None:
        """What the hydrate stage knows about an item."""
        assert isinstance(self._stage, HydrateStage)
        return self._stage.item(item_id)


def remote_stages(handles: dict[str, DeploymentHandle]) -> Stages:
    """The stages in deployments of their own, by name.

    Values go with the call: they are a few kilobytes, and a way through the object store costs two milliseconds.
    """
    called = {name: handle.options(_by_reference=False) for name, handle in handles.items()}
    return Stages(
        hydrate=called["hydrate"].remote,
        item=called["hydrate"].item.remote,
        retrieve=called["retriever"].remote,
        rank=called["ranker"].remote,
        select=called["select"].remote,
    )
