"""The thin Ray Serve deployments around the gateway and the stages."""

from typing import Any, Final, final

import numpy as np
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.config import ServeConfig
from serve.gateway import Gateway, Stages
from serve.hydrate import HydrateStage
from serve.ranker import RankerStage
from serve.retriever import RetrieverStage
from serve.select import SelectStage

STAGES: Final = ("hydrate", "retriever", "ranker", "select")
# What runs takes milliseconds, so a stopping replica need not wait long for it.
SHUTDOWN_S: Final = 2.0


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
    if config.layout == "single":
        return gateway.bind(config, version)
    stage = ray_serve.deployment(num_replicas=config.stage_replicas, **replica)(StageDeployment)
    return gateway.bind(
        config, version, **{name: stage.options(name=name).bind(name, config, version) for name in STAGES}
    )


@ray_serve.ingress()
class GatewayDeployment:
    """The HTTP front: with all stages inside, or with handles to stages elsewhere."""

    def __init__(self, config: ServeConfig, version: str, **stages: DeploymentHandle) -> None:
        called = remote_stages(stages) if stages else Stages.here(Recommender.load(config.home, version), config)
        gateway = Gateway(called, Registry(Home(config.home)), version)
        self._api = Api(gateway, max_body_bytes=config.max_body_bytes, body_timeout_s=config.body_timeout_s)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._api


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
                self._stage = SelectStage(recommender, config.policy, np.random.SeedSequence(config.seed))

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
