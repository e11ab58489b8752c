"""The most popular items, of all time or of late: what every other source has to beat."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.errors import TrainingError
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.top_k import same_for_all
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True, slots=True)
class Popularity:
    """The same list for everybody: items by how many interactions they have, (N,)."""

    counts: NDArray[np.float64]
    name: ClassVar[str] = "popularity"

    @classmethod
    def fit(cls, interactions: Interactions) -> Self:
        """Counts the interactions of each item."""
        return cls(_counts(interactions))

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The most popular items that are not excluded, of those that anybody has taken."""
        return same_for_all(_where_taken(self.counts), states, k, self.name)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: nobody has taken them."""
        return type(self)(_padded(self.counts, n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes popularity.safetensors."""
        return write_arrays(folder, self.name, {"counts": self.counts})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads popularity.safetensors."""
        return cls(*read_arrays(folder, cls.name, "counts"))


@final
@dataclass(frozen=True, slots=True)
class RecentPopularity:
    """Items by their interactions within a window before the end of the data; among equals, by those of all time.

    Attributes:
        scores: recent interactions, plus all-time interactions over one more than their sum, (N,).
    """

    scores: NDArray[np.float64]
    name: ClassVar[str] = "recent_popularity"

    @classmethod
    def fit(cls, interactions: Interactions, *, window_ms: int, until_ms: int) -> Self:
        """Counts the interactions of each item with until_ms - window_ms <= timestamp < until_ms."""
        counts = _counts(interactions)
        recent = interactions.between(until_ms - window_ms, until_ms)
        scores = np.bincount(recent.item, minlength=recent.n_items) + counts / (counts.sum() + 1.0)
        return cls(scores)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items most popular of late that are not excluded, of those that anybody has taken."""
        return same_for_all(_where_taken(self.scores), states, k, self.name)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: nobody has taken them."""
        return type(self)(_padded(self.scores, n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes recent_popularity.safetensors."""
        return write_arrays(folder, self.name, {"scores": self.scores})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads recent_popularity.safetensors."""
        return cls(*read_arrays(folder, cls.name, "scores"))


def _counts(interactions: Interactions) -> NDArray[np.float64]:
    if not len(interactions):
        raise TrainingError("there are no interactions to count; check min_rating and positive_actions")
    return np.bincount(interactions.item, minlength=interactions.n_items).astype(np.float64)


def _where_taken(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(scores > 0, scores, -np.inf)


def _padded(scores: NDArray[np.float64], n_items: int) -> NDArray[np.float64]:
    return np.pad(scores, (0, n_items - len(scores)))
