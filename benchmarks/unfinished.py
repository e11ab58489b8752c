"""Rows of a benchmark that takes hours, kept as they come, so that a run that was cut off goes on from them."""

import json
import sys
from collections.abc import Sequence
from typing import Any, final

from results import FOLDER

from rec.bundle import git_sha
from rec.storage import replace_file


@final
class Unfinished:
    """benchmarks/results/NAME.unfinished.json: there from the first row until a result has all that it holds.

    Ends the benchmark, and says why, where the file holds rows of another protocol or commit, or of code with changes
    that no commit names.

    Args: name: of the result. protocol: all that decides what a row says, as JSON. Which rows are asked for may differ.
    """

    def __init__(self, name: str, protocol: dict[str, Any]) -> None:
        self._file = FOLDER / f"{name}.unfinished.json"
        self._run = json.loads(json.dumps({"git_sha": git_sha(), **protocol}))
        self._rows: list[dict[str, Any]] = []
        if not self._file.exists():
            return
        found = json.loads(self._file.read_text(encoding="utf-8"))
        there, here = found["run"], self._run
        differs = [
            f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if here["git_sha"] is None or here["git_sha"].endswith("-dirty"):
            differs.append("the code is not that of a commit, so nothing says that the rows are of the same code")
        if differs:
            sys.exit(
                f"{self._file} holds {len(found['rows'])} rows of a run that this one cannot go on from: "
                f"{'; '.join(differs)}. Run that one to its end, or remove the file."
            )
        self._rows = found["rows"]

    def row(self, model: str, seed: int) -> dict[str, Any] | None:
        """What was kept of this model and seed, if anything was."""
        return next((row for row in self._rows if (row["model"], row["seed"]) == (model, seed)), None)

    def keep(self, row: dict[str, Any]) -> None:
        """Keeps one more row; it names its `model` and `seed`."""
        self._rows.append(row)
        text = json.dumps({"run": self._run, "rows": self._rows}, indent=1, allow_nan=False)
        replace_file(self._file, (text + "\n").encode())

    def end(self, written: Sequence[dict[str, Any]]) -> None:
        """Removes the file where these rows, which are in the result, are all that it holds.

        A run that asked for fewer leaves it as it is, so that one for more does not make them again.
        """
        there = {(row["model"], row["seed"]) for row in written}
        if all((row["model"], row["seed"]) in there for row in self._rows):
            self._file.unlink(missing_ok=True)
        else:
            print(f"{self._file} stays: it holds rows that were not asked for")
