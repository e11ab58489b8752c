"""A peer in a Python of its own, that does what the lines of its input say and answers each with a line of JSON."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ask = Callable[[str | None], dict[str, Any]]


@contextmanager
def peer(python: str, script: Path, *arguments: str) -> Iterator[Ask]:
    """What asks the peer and waits for its answer; None: for what it says first."""
    # Else it would import our packages, or one of our versions of what it needs.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [python, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdin is not None and process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def ask(what: str | None) -> dict[str, Any]:
        if what is not None:
            print(what, file=asked, flush=True)
        answer = answers.readline()
        if not answer:
            raise RuntimeError(f"{python} ended; does it have what {script.name} imports? Run that to see")
        return json.loads(answer)

    try:
        yield ask
    finally:
        asked.close()
        process.wait(60)
