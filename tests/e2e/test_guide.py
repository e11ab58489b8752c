"""docs/guide.md does what it says: its commands run one after the other, in an empty folder, as in a reader's shell."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rec.data.events import open_events

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
TIMEOUT_S = 1500


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def shell(script: str, folder: Path) -> str:
    """What a script prints, each command and its second before what it does; all it left running is ended."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Of Ray, too, nothing is taken over: a service of this process has claimed ports of its own.
    ours = ("TANDEM_HOME", "RAY_ADDRESS", "RAY_SERVE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ran = subprocess.Popen(
        ["bash", "-xeuo", "pipefail", "-c", f"PS4='+ $SECONDS s: '\n{script}"],
        cwd=folder,
        env={**environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = ran.communicate(timeout=TIMEOUT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ran.pid, signal.SIGTERM)
        ran.wait(timeout=60)
    assert ran.returncode == 0, printed[-6000:]
    return printed


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 100)
def test_the_commands_of_the_guide_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == GUIDE.read_text(encoding="utf-8").count("```") / 2, "a block that nothing runs"
    printed = shell("\n".join(blocks).replace("8000", str(free_port())), tmp_path)
    print(printed)

    judged = re.findall(r"^(\w+) +ndcg@10 ", printed, re.MULTILINE)
    assert judged == ["two_stage", "retriever", "popularity", "recent_popularity", "item_knn", "ease"]
    events = open_events(str(tmp_path / "home"))
    acts = Counter(events.read("feedback", columns=["event_id"])["event_id"].to_pylist())
    assert all(acts[f"act-{place}"] == 1 for place in range(3)), "what was said by curl is in the log once"
    assert len(events.read("requests", columns=["request_id"])) > 1000
    assert "more than the logging policy" in printed

    told = json.loads((tmp_path / "cycle.json").read_text(encoding="utf-8"))
    assert told["status"] in ("promoted", "refused") and bool(told["reasons"]) == (told["status"] == "refused")
    assert told["steps"]["read"]["n_new"] > 500 and told["steps"]["read"]["n_held_out"] > 100
    versions = sorted(path.name for path in (tmp_path / "home" / "models").iterdir() if "-" in path.name)
    assert len(versions) >= 3 and told["challenger"] in versions
    journals = list((tmp_path / "home" / "cycles").glob("*/journal.json"))
    assert len(journals) == 2, "the nightly script runs a cycle of its own"
