"""Runs as they are finished, one line of JSON each, so that an interrupted benchmark loses nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Runs:
    """A file of finished runs; a run is known by its settings.

    Attributes: path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Finished runs in the order they were finished; a line that a crash cut short is passed over."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def find(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The run of these settings, None where there is none."""
        return next((run for run in self if run["settings"] == settings), None)

    def append(self, run: dict[str, Any]) -> None:
        """Writes a run, with its `settings`, to the end of the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(run))
