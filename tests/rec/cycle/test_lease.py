"""One holds it, wherever the home is; who died holds it no more, and who stood still too long has lost it."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from moto.server import ThreadedMotoServer

import rec.cycle.lease
from rec.cycle.lease import Lease, LeaseError
from rec.storage import Home

ROOT = Path(__file__).parents[3]
HOLDS = """
import sys, time
from rec.cycle.lease import Lease
from rec.storage import Home

with Lease(Home(sys.argv[1]), "lease", seconds=3600):
    print("held", flush=True)
    time.sleep(3600)
"""
Open = Callable[..., Lease]


@pytest.fixture(scope="module")
def object_store() -> Iterator[tuple[dict[str, str], str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    Home(f"s3://key:secret@bucket/base?{query}")._filesystem.create_dir("bucket")
    yield environment, f"s3://key:secret@bucket/NAME?{query}"
    server.stop()


@pytest.fixture(params=["local", "object store"])
def lease(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the same lease again at every call."""
    location = str(tmp_path)
    if request.param == "object store":
        environment, url = request.getfixturevalue("object_store")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        location = url.replace("NAME", tmp_path.name)
    return lambda seconds=3600.0: Lease(Home(location), "lease", seconds=seconds)


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine."""
    monkeypatch.setattr(rec.cycle.lease, "_machine", lambda: "another")


def test_one_holds_it_until_the_end_of_its_block(lease: Open) -> None:
    with lease() as held:
        with pytest.raises(LeaseError, match=f"another one is at work, process {os.getpid()}"), lease():
            pass
        held.hold()
    with lease():
        pass


@pytest.mark.parametrize("holder", ["nobody", "[]", '{"pid": 1}'])
def test_a_lease_that_names_no_holder_is_refused_by_its_folder(tmp_path: Path, holder: str) -> None:
    with Lease(Home(tmp_path), "lease", seconds=60):
        pass
    row = pa.table({"holder": [holder], "expires_ms": [2**50]}, schema=rec.cycle.lease.SCHEMA)
    write_deltalake(str(tmp_path / "lease"), row, mode="overwrite")
    with (
        pytest.raises(LeaseError, match="see that no cycle runs") as caught,
        Lease(Home(tmp_path), "lease", seconds=60),
    ):
        pass
    assert caught.value.file == str(tmp_path / "lease")


def test_a_lease_whose_file_is_lost_is_refused_by_its_folder(tmp_path: Path) -> None:
    with Lease(Home(tmp_path), "lease", seconds=60):
        pass
    for file in (tmp_path / "lease").glob("*.parquet"):
        file.unlink()
    with pytest.raises(LeaseError, match="move it away"), Lease(Home(tmp_path), "lease", seconds=60):
        pass


def test_a_lease_that_cannot_be_renewed_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with Lease(Home(tmp_path), "lease", seconds=60) as held, monkeypatch.context() as disk:
        disk.setattr(rec.cycle.lease, "write_deltalake", full)
        with pytest.raises(LeaseError, match="No space left on device") as caught:
            held.hold()
    assert caught.value.file == str(tmp_path / "lease")


def test_of_many_that_begin_at_once_one_holds_it(lease: Open) -> None:
    together, over, held, refused = threading.Barrier(6), threading.Event(), [], []

    def begin() -> None:
        one = lease()
        together.wait()
        try:
            with one:
                held.append(one)
                over.wait()
        except LeaseError as error:
            refused.append(error)
            if len(refused) == 5:
                over.set()

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 5


def test_what_ran_out_is_taken_over_and_its_holder_is_told(lease: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    now = rec.cycle.lease._now_ms()
    with lease() as first:
        elsewhere(monkeypatch)
        monkeypatch.setattr(rec.cycle.lease, "_now_ms", lambda: now + 3_599_000)
        with pytest.raises(LeaseError), lease():
            pass
        monkeypatch.setattr(rec.cycle.lease, "_now_ms", lambda: now + 3_700_000)
        with lease() as second:
            with pytest.raises(LeaseError, match="another has taken it"):
                first.hold()
            second.hold()


def test_it_is_renewed_while_it_is_held(lease: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    extend = Lease._extend

    def noted(self: Lease, seconds: float) -> None:
        extend(self, seconds)
        renewed.set()

    monkeypatch.setattr(Lease, "_extend", noted)
    with lease(seconds=1.0):
        assert renewed.wait(60)


def test_whoever_was_killed_holds_it_no_more_on_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(LeaseError, match=f"process {child.pid}"), Lease(Home(tmp_path), "lease", seconds=60):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with monkeypatch.context() as other:
        elsewhere(other)
        with pytest.raises(LeaseError), Lease(Home(tmp_path), "lease", seconds=60):
            pass
    with Lease(Home(tmp_path), "lease", seconds=60):
        pass
    assert json.loads(DeltaTable(tmp_path / "lease").to_pyarrow_table()["holder"][0].as_py())["pid"] == os.getpid()
