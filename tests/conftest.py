"""Fixtures that every test may use: real data where there is any, and one Ray for the whole session."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tandem_data() -> Path:
    """The folder of real data named by TANDEM_DATA; without it the test is skipped, and says so."""
    folder = os.environ.get("TANDEM_DATA")
    if not folder:
        pytest.skip("TANDEM_DATA is not set: point it at a folder holding ml-1m/ to run the tests on real data")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"TANDEM_DATA names {folder!r}, which is not a folder")
    return path


@pytest.fixture(scope="session")
def store() -> Iterator[dict[str, str]]:
    """An object store on the loopback interface with a bucket named `bucket`, as the variables that lead to it."""
    from moto.server import ThreadedMotoServer

    from rec.storage import Home

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    Home(f"s3://key:secret@bucket/base?{query}")._filesystem.create_dir("bucket")
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    server.stop()


@pytest.fixture
def remote_home(store: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a home of this test alone in the object store, which the environment leads to."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray of two CPUs, shared by all tests that need it and shut down at the end."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from serve.app import prepare_environment

    prepare_environment()
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 * 2**20,
    )
    yield
    ray.shutdown()
