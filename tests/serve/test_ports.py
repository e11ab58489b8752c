"""Services that start at the same moment take ports of their own."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from rec.bundle import BundleDetails
from rec.errors import ConfigError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.ports import ClaimedPort, free_port

HOST = "127.0.0.1"
CLAIM = """
import sys
from serve.ports import ClaimedPort
port = ClaimedPort(sys.argv[1], int(sys.argv[2]))
print(port.number, flush=True)
sys.stdin.read()
"""
TANDEM = "from rec.cli import entry; entry()"


def another(*arguments: str, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # The ports and sockets of the Serve that other tests share belong to that one.
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")},
        start_new_session=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def said_first(process: subprocess.Popen[str], word: str) -> str:
    """The first line that begins with a word, or the last one of a program that never says it."""
    line = told = line_of(process)
    while line and not line.startswith(word):
        line, told = line_of(process), line
    return line or told


def test_a_port_is_one_service_s_before_anything_listens_on_it():
    wanted = free_port(HOST, 0)
    with closing(ClaimedPort(HOST, wanted)) as claimed:
        assert claimed.number == wanted == free_port(HOST, wanted), "it is claimed, and nothing listens yet"
        with another(HOST, str(wanted), code=CLAIM) as process:
            assert int(line_of(process)) != wanted
            process.kill()
    with another(HOST, str(wanted), code=CLAIM) as process:
        assert int(line_of(process)) == wanted, "the claim was given up"
        with closing(ClaimedPort(HOST, wanted)) as mine:
            assert mine.number != wanted
        process.send_signal(signal.SIGKILL)
        process.wait()
        with closing(ClaimedPort(HOST, wanted)) as mine:
            assert mine.number == wanted, "a claim goes with its process"


def test_a_port_is_claimed_whatever_it_is_to_be_listened_on():
    with closing(ClaimedPort(HOST, 0)) as claimed, closing(ClaimedPort("", claimed.number)) as other:
        assert other.number != claimed.number


def test_an_address_of_another_machine_has_no_ports():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.77"):
        ClaimedPort("192.0.2.77", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_services_started_at_once_each_answers_for_itself_and_none_takes_another_s_port(home: str, tmp_path: Path):
    """Three homes with a version each; two of them want the same port."""
    wanted = free_port(HOST, 0)
    ports = {home: wanted, published_again(home, tmp_path / "a"): wanted, published_again(home, tmp_path / "b"): 0}
    with ExitStack() as running:
        serving: list[tuple[str, str]] = []
        processes = [
            (
                place,
                running.enter_context(another("serve", "--home", place, "--port", str(port), code=TANDEM)),
            )
            for place, port in ports.items()
        ]
        refused = []
        for place, process in processes:
            line = said_first(process, "Serving")
            if line.startswith("Serving"):
                running.callback(process.wait, 60)
                running.callback(process.send_signal, signal.SIGTERM)
                serving.append((place, line.split(" at ")[1].split(" ")[0]))
            else:
                refused.append((process.wait(60), line))
        for place, address in serving:
            told = {httpx.get(f"{address}/v1/models", timeout=30).json()["serving"] for _ in range(20)}
            assert told == {Recommender.load(place).version}
    assert len(serving) == 2 and len({address for _, address in serving}) == 2
    ((code, message),) = refused
    assert code == 2 and f"port {wanted} of {HOST} is taken" in message


def published_again(home: str, place: Path) -> str:
    """A home that has the same model as another version."""
    bundle, registry = Registry(Home(home)).open(), Registry(Home(place))

    def fill(folder: Path) -> None:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path(name), folder)

    details = BundleDetails(**bundle.manifest.model_dump(include=set(BundleDetails.model_fields)))
    registry.promote(registry.publish(fill, details))
    return str(place)
