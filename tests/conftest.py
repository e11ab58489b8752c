"""Fixtures that every test may use: real data where there is any, and one Ray for the whole session."""

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
