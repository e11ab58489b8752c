"""Runs as they are finished, one line of JSON each, so that an interrupted benchmark loses nothing."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rec.bundle import git_sha

UNKNOWN_COMMIT = "unknown commit"


class Runs:
    """A file of finished runs; a run is known by its settings, and says of which commit it is.

    Attributes:
        path: of the file.
        defaults: settings that runs of the file may leave out, for they were finished before there was a choice.
        git_sha: of the code that runs now.
    """

    def __init__(self, path: Path, defaults: dict[str, Any] | None = None) -> None:
        self.path = path
        self.defaults = defaults or {}
        self.git_sha = git_sha()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Finished runs in the order they were finished; a line that a crash cut short is passed over."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                run = json.loads(line)
            except json.JSONDecodeError:
                continue
            yield {**run, "settings": self.defaults | run["settings"]}

    def find(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The run of these settings, None where there is none."""
        return next((run for run in self if run["settings"] == settings), None)

    def append(self, run: dict[str, Any]) -> None:
        """Writes a run, with its `settings` and the commit, to the end of the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({**run, "git_sha": self.git_sha}))


def commits(runs: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many runs each commit did; the oldest runs do not say of which they are."""
    return dict(Counter(run.get("git_sha") or UNKNOWN_COMMIT for run in runs))
