"""Trials as they are kept: one file each, which says what was tried and what came of it."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.storage import Home

FOLDER: Final = "trials"
FILE: Final = "trial.json"
EACH_FILE: Final = "each.npy"

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
class Judged:
    """What a trial came to, and what that is the mean of.

    Attributes: each: of the same users or sessions in every trial, in the same order, (n,); None of a policy, whose
        estimate is no mean over them.
    """

    measured: Measured
    each: NDArray[np.float64] | None


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
        attempts: how often it was begun: again where its process was lost, or the search.
    """

    name: str
    values: dict[str, Any]
    state: State = "running"
    measured: Measured | None = None
    epochs: tuple[float, ...] = ()
    seconds: float | None = None
    error: str | None = None
    attempts: int = 1


@final
@dataclass(frozen=True, slots=True)
class Trials:
    """The trials of a search, each in a folder of its own.

    Attributes: home: that the search is kept in, where all machines see it. search: name of its folder there.
    """

    home: Home
    search: str

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Those of a search in a local folder."""
        return cls(Home(folder.parent), folder.name)

    def name(self, trial: str) -> str:
        """The name of a trial's folder in the home."""
        return f"{self.search}/{FOLDER}/{trial}"

    def read(self, trial: str) -> Trial | None:
        """The trial of a name, None where there is none."""
        content = self.home.read(f"{self.name(trial)}/{FILE}")
        if content is None:
            return None
        plain = json.loads(content)
        measured = plain.pop("measured")
        return Trial(**{**plain, "epochs": tuple(plain["epochs"]), "measured": measured and Measured(**measured)})

    def write(self, trial: Trial) -> None:
        """Writes a trial, at once or not at all."""
        self.home.write(f"{self.name(trial.name)}/{FILE}", (json.dumps(asdict(trial), indent=1) + "\n").encode())

    def write_each(self, trial: str, each: NDArray[np.float64]) -> None:
        """Keeps what the value of a trial is the mean of, (n,)."""
        content = io.BytesIO()
        np.save(content, each)
        self.home.write(f"{self.name(trial)}/{EACH_FILE}", content.getvalue())

    def each(self, trial: str) -> NDArray[np.float64] | None:
        """What the value of a trial is the mean of, (n,); None where it is not kept."""
        content = self.home.read(f"{self.name(trial)}/{EACH_FILE}")
        return None if content is None else np.load(io.BytesIO(content))

    def all(self) -> list[Trial]:
        """All that there are, the best first, then those without a result."""
        found = (self.read(name) for name in self.home.children(f"{self.search}/{FOLDER}"))
        return sorted((trial for trial in found if trial is not None), key=_rank)


def _rank(trial: Trial) -> tuple[bool, float, str]:
    return (trial.measured is None, -trial.measured.score if trial.measured else 0.0, trial.name)
