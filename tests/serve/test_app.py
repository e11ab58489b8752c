"""The service as a process: it starts, answers, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import uuid
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from rec.errors import BundleError, ConfigError
from rec.storage import Home
from serve.app import build, run, socket_folder, start
from serve.config import ServeConfig
from serve.keys import KeyStore
from serve.ports import free_port
from tests.processes import MARK, marked

PROGRAM = """
import sys
from serve.app import run
from serve.config import ServeConfig
run(ServeConfig(home=sys.argv[1], port=int(sys.argv[2])))
"""


@pytest.mark.parametrize(("folder", "parent"), [("/var/tmp", "/var/tmp"), (f"/scratch/{60 * 'x'}", "/tmp")])
def test_haproxy_s_sockets_have_paths_that_it_takes(monkeypatch: pytest.MonkeyPatch, folder: str, parent: str):
    monkeypatch.setattr(tempfile, "tempdir", folder)
    made = Path(socket_folder())
    made.rmdir()
    assert made.parent == Path(parent) and len(f"{made}/{56 * '0'}/metrics.sock") <= 97


@pytest.mark.parametrize("begin", [build, start, run])
def test_a_home_without_models_is_refused_before_anything_starts(begin, tmp_path: Path):
    with pytest.raises(BundleError, match="CURRENT"):
        begin(ServeConfig(home=str(tmp_path)))


def test_a_damaged_bundle_is_refused_by_the_name_of_the_file(home: str, tmp_path: Path):
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    (file,) = copy.glob("models/*/items.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"items\.parquet"):
        start(ServeConfig(home=str(copy)))


def test_a_port_that_is_taken_is_named(home: str):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            start(ServeConfig(home=home, port=port))


def test_an_address_of_another_machine_is_named(home: str):
    with pytest.raises(ConfigError, match=r"192\.0\.2\.77"):
        start(ServeConfig(home=home, host="192.0.2.77"))


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ({}, r"say host: 127\.0\.0\.1 in args"),
        ({"host": "0.0.0.0"}, "say keys: off"),
        ({"host": "127.0.0.1", "keys": "required"}, "say keys: off"),
    ],
)
def test_an_application_that_may_listen_anywhere_needs_a_key(home: str, tmp_path: Path, said: dict, todo: str):
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    args = ServeConfig.model_validate({"home": str(copy), **said})
    with pytest.raises(ConfigError, match=rf"a key is required.*{todo}") as error:
        build(args)
    assert error.value.field == "keys"
    assert build(args.model_copy(update={"keys": "off"}))
    KeyStore(Home(copy)).create("web", ("recommend",), now_ms=1)
    assert build(args)


def test_an_application_that_says_it_listens_on_loopback_needs_none(home: str):
    assert build(ServeConfig(home=home, host="127.0.0.1"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_service_and_every_process_of_it(home: str, number: signal.Signals):
    """SIGINT goes to the whole process group, as Ctrl-C in a terminal does."""
    mark = uuid.uuid4().hex
    port = free_port("127.0.0.1", 0)
    # The ports and sockets of the Serve that other tests share belong to that one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), home, str(port)],
        env={**inherited, MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=30).status_code == 200
        assert len(marked(mark)) > 3
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    deadline = monotonic() + 10
    while (left := marked(mark)) and monotonic() < deadline:
        sleep(0.1)
    assert not left
