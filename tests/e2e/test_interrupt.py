"""Ctrl-C at any moment leaves no process behind and no half-written bundle."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from rec.registry import Registry
from rec.storage import Home
from tests.processes import MARK, marked


def _interrupt(arguments: list[str], after: str, delay_s: float) -> tuple[int, str, str]:
    """Starts `tandem ...`, waits for a line of output and a little longer, presses Ctrl-C, and waits for the end."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", "from rec.cli import entry; entry()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if after in line:
            break
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    said += process.stdout.read()
    code = process.wait(timeout=90)
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [" ".join(child.cmdline())[:120] for child in marked(mark)]
    for child in marked(mark):
        child.kill()
    assert not left, f"left behind: {left}\n{said}"
    return code, said, mark


def _no_half_written_bundle(home: Path) -> None:
    registry = Registry(Home(home))
    for version in registry.versions():
        registry.open(version)
    assert not list(home.glob("models/.draft-*"))


@pytest.mark.parametrize(
    ("after", "delay_s"),
    [
        pytest.param("fitting retriever-0", 3.0),
        pytest.param("run ", 0.5, marks=pytest.mark.slow),
        pytest.param("fitting retriever-0", 0.0, marks=pytest.mark.slow),
        pytest.param("epoch 1 ", 0.0, marks=pytest.mark.slow),
        pytest.param("fitting retriever-1", 8.0, marks=pytest.mark.slow),
        pytest.param("fitting retriever-2", 12.0, marks=pytest.mark.slow),
        pytest.param("fitting ranker\n", 2.0, marks=pytest.mark.slow),
    ],
)
def test_training_interrupted(small_config: Path, tmp_path: Path, after: str, delay_s: float) -> None:
    world = tmp_path / "world.yaml"
    world.write_text(json.dumps({"n_users": 80, "n_videos": 300, "sessions_per_user": 8}))
    home = tmp_path / "home"
    code, said, _ = _interrupt(
        ["train", "--config", str(small_config), "--path", str(world), "--home", str(home), "--workers", "2"],
        after,
        delay_s,
    )
    assert code == 130, said
    assert "interrupted" in said and "published " not in said
    assert Registry(Home(home)).versions() == []
    _no_half_written_bundle(home)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("after", "delay_s"),
    [("1. A world", 1.0), ("fitting retriever-0", 6.0), ("2. Trained", 0.5), ("3. Offline", 3.0), ("4. Served", 1.0)],
)
def test_demo_interrupted(tmp_path: Path, after: str, delay_s: float) -> None:
    home = tmp_path / "home"
    code, said, _ = _interrupt(["demo", "--home", str(home)], after, delay_s)
    assert code == 130, said
    _no_half_written_bundle(home)
