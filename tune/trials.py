"""Trials as they are kept: one file each, which says what was tried and what came of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from rec.storage import replace_file

FOLDER: Final = "trials"
FILE: Final = "trial.json"

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a trial came to on validation.

    Attributes:
        metric: what value is.
        value, std_error: an estimate, and its standard error; None where it is of one user.
        n: of users or sessions; of a policy, the effective sample size.
        score: what the search maximises: the value, or of a policy a lower bound of it.
    """

    metric: str
    value: float
    std_error: float | None
    n: float
    score: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Attributes:
        name: of its folder.
        values: of the fields that are searched.
        state: `running` also after its process was killed; `stopped` early, as others were better.
        measured: None unless it finished.
        epochs: score after each epoch, as far as it is judged by epochs.
        seconds: that it took; a trial that was begun again counts from then.
        error: why it failed.
    """

    name: str
    values: dict[str, Any]
    state: State = "running"
    measured: Measured | None = None
    epochs: tuple[float, ...] = ()
    seconds: float | None = None
    error: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The trial of a folder, None where nothing is there."""
        if not (folder / FILE).is_file():
            return None
        plain = json.loads((folder / FILE).read_text(encoding="utf-8"))
        measured = plain.pop("measured")
        return cls(**{**plain, "epochs": tuple(plain["epochs"]), "measured": measured and Measured(**measured)})

    def write(self, folder: Path) -> None:
        """Writes the trial, at once or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_trials(search: Path) -> list[Trial]:
    """All trials of a search's folder, the best first, then those without a result."""
    found = (Trial.read(folder) for folder in sorted((search / FOLDER).glob("*")))
    return sorted((trial for trial in found if trial is not None), key=_rank)


def _rank(trial: Trial) -> tuple[bool, float, str]:
    return (trial.measured is None, -trial.measured.score if trial.measured else 0.0, trial.name)
