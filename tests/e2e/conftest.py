"""The command line as a user runs it."""

import contextlib
import io
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rec.cli import main

Run = Callable[..., "Done"]

SMALL = {
    "retriever": {"output_dim": 16, "queries": {"min_batches": 5}},
    "training": {"workers": 0, "epochs": 2},
    "ranker": {
        "n_candidates": 60,
        "learn_from": "answers",
        "min_positives": 1,
        "lambdamart": {"trees": 20, "min_data_in_leaf": 5},
    },
}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def tandem() -> Run:
    """Runs `tandem ...` in this process, which saves the imports, and returns what it printed."""

    def run(*arguments: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        before = signal.getsignal(signal.SIGTERM)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        signal.signal(signal.SIGTERM, before)
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def small_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file that trains in seconds."""
    file = tmp_path_factory.mktemp("config") / "small.yaml"
    file.write_text(json.dumps(SMALL), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def trained(tandem: Run, small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A home with one bundle, and what `tandem train --json` said of it."""
    folder = tmp_path_factory.mktemp("e2e")
    world, home = folder / "world.yaml", str(folder / "home")
    world.write_text("n_users: 80\nn_videos: 300\nsessions_per_user: 8\n", encoding="utf-8")
    done = tandem("train", "--config", str(small_config), "--path", str(world), "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)
