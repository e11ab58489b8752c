"""A small trained bundle, its interface in this process, and Ray Serve with one application a layout."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

import rec
from rec.data.dataset import Dataset
from rec.data.events import EventTables, open_events
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.stages import Stages
from tests.serve.services import Service

Ask = Callable[..., httpx.Response]
Deploy = Callable[[str, ServeConfig], str]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """What people did in a small world."""
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok
    from rl.instatok.log import log_sessions

    return log_sessions(InstaTok(InstaTokConfig(n_users=60, n_videos=300, seed=1)))


@pytest.fixture(scope="session")
def home(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with one published bundle, trained on that world."""
    from rec.config import LambdaMARTConfig, QueriesConfig, RankerConfig, RetrieverConfig, TrainConfig, TrainingConfig
    from rec.pipeline import train

    folder = str(tmp_path_factory.mktemp("serve") / "home")
    config = TrainConfig(
        retriever=RetrieverConfig(output_dim=16, queries=QueriesConfig(min_batches=5)),
        ranker=RankerConfig(n_candidates=60, lambdamart=LambdaMARTConfig(trees=20, min_data_in_leaf=5)),
        training=TrainingConfig(workers=0, epochs=2),
    )
    train(dataset, config, folder)
    return folder


@pytest.fixture(scope="session")
def recommender(home: str) -> Recommender:
    return rec.load(home)


@pytest.fixture(scope="session")
def user_id(recommender: Recommender) -> str:
    """A user the bundle knows."""
    return str(recommender.snapshot.user_ids[0])


@pytest.fixture
def gateway(home: str, recommender: Recommender) -> Gateway:
    config = ServeConfig(home=home, seed=0)
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    return Gateway(arms, Registry(Home(home)))


@pytest.fixture
def events(tmp_path: Path) -> EventTables:
    """Tables with nothing in them yet."""
    return open_events(str(tmp_path))


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What hangs until it is set, at the end of the test if not before: a test that fails does not wait for it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def service(recommender: Recommender, home: str, tmp_path: Path) -> Service:
    return Service(recommender, home, tmp_path)


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Sends one request to an ASGI application, without a network."""

    def asked(app: ASGIApp, method: str, path: str, **body: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **body)

        return asyncio.run(answer())

    return asked


@pytest.fixture
def request_to(gateway: Gateway, ask: Ask) -> Callable[..., httpx.Response]:
    """Sends one request to the interface of the bundle."""
    return partial(ask, Api(gateway, ServeConfig(home=".", max_body_bytes=10_000)))


@pytest.fixture(scope="session")
def front(ray_session: None) -> Iterator[str]:
    """The address of Ray Serve, which stays up from one test's applications to the next."""
    from ray import serve as ray_serve

    from serve.ports import free_port

    port = free_port("127.0.0.1", 0)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    yield f"http://127.0.0.1:{port}"
    ray_serve.shutdown()


@pytest.fixture
def deploy(front: str) -> Iterator[Deploy]:
    """Deploys a config under a path of its own and returns the address; it is deleted when the test has ended."""
    from ray import serve as ray_serve

    from serve.app import build, wait_until_ready

    with ExitStack() as running:

        def deployed(name: str, config: ServeConfig) -> str:
            quiet = {"enable_access_log": False}
            at_front = config.model_copy(update={"host": "127.0.0.1"})
            ray_serve.run(build(at_front), name=name, route_prefix=f"/{name}", logging_config=quiet)
            running.callback(ray_serve.delete, name)
            wait_until_ready(f"{front}/{name}")
            return f"{front}/{name}"

        yield deployed
