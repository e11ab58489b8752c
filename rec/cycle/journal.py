"""What a cycle has done so far: one JSON file in the home, replaced as a whole after each step."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self, final

from rec.config import CycleConfig
from rec.errors import DataError
from rec.storage import Home

CYCLES: Final = "cycles"
JOURNAL_FILE: Final = "journal.json"

Status = Literal["open", "promoted", "refused", "waiting", "failed"]


@final
@dataclass(frozen=True, slots=True)
class Journal:
    """One cycle.

    Attributes:
        cycle: its name; names sort by time.
        config: it goes on with this, whatever is asked for when it is taken up again.
        status: `open` until it ended. A cycle that was killed is open; one that raised has `failed`, unless only its
            report is missing.
        steps: what each finished step found, by name, in order.
        begun: the step that was begun last.
        error: of the step that raised.
    """

    cycle: str
    config: CycleConfig
    status: Status = "open"
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: str | None = None
    error: str | None = None

    @classmethod
    def begin(cls, config: CycleConfig) -> Self:
        """A new cycle, as of now where its config names no time."""
        now = datetime.now(UTC)
        now_ms = int(now.timestamp() * 1000) if config.now_ms is None else config.now_ms
        return cls(f"{now:%Y%m%dT%H%M%S%f}Z", config.model_copy(update={"now_ms": now_ms}))

    def beginning(self, step: str) -> "Journal":
        """With a step begun."""
        return replace(self, begun=step)

    def done(self, step: str, found: dict[str, Any]) -> "Journal":
        """With one step more.

        Raises: DataError: when it found what is not a number, naming it.
        """
        try:
            json.dumps(found, allow_nan=False)
        except ValueError as error:
            raise DataError(f"no finite number: {', '.join(_not_finite(found))}", field=step) from error
        return replace(self, steps={**self.steps, step: found})

    def ended(self, status: Status, error: str | None = None) -> "Journal":
        """At its end."""
        return replace(self, status=status, error=error)

    def file(self, name: str) -> str:
        """Name in the home of a file of this cycle."""
        return f"{CYCLES}/{self.cycle}/{name}"

    def write(self, home: Home) -> None:
        """Replaces what was written of it."""
        values = {**asdict(self), "config": self.config.model_dump(mode="json")}
        home.write(self.file(JOURNAL_FILE), (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def read_journal(home: Home, cycle: str) -> Journal | None:
    """The journal of a cycle, None where there is none.

    Raises: DataError: naming the file, when it is damaged.
    """
    name = f"{CYCLES}/{cycle}/{JOURNAL_FILE}"
    content = home.read(name)
    if content is None:
        return None
    try:
        values = json.loads(content)
        if values["cycle"] != cycle or not all(isinstance(step, dict) for step in values["steps"].values()):
            raise ValueError("of another cycle, or steps that are none")
        return Journal(**{**values, "config": CycleConfig.model_validate(values["config"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"no journal of a cycle: {error}; move it away to begin anew", file=home.show(name)) from error


def latest_journal(home: Home) -> Journal | None:
    """That of the latest cycle, None before the first."""
    for name in reversed(home.children(CYCLES)):
        if (journal := read_journal(home, name)) is not None:
            return journal
    return None


def _not_finite(found: Any, name: str = "") -> list[str]:
    """The names of the values that JSON has no number for."""
    if isinstance(found, float):
        return [] if math.isfinite(found) else [f"{name} {found}"]
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list | tuple) else ()
    return [each for key, value in parts for each in _not_finite(value, f"{name}.{key}".lstrip("."))]
