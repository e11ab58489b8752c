"""The latest items: what popularity cannot know yet."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.top_k import same_for_all
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True, slots=True)
class Fresh:
    """The same list for everybody: the newest items first, -inf for those of unknown time, which are none, (N,)."""

    times: NDArray[np.float64]
    name: ClassVar[str] = "fresh"

    @classmethod
    def fit(cls, interactions: Interactions, added_ms: NDArray[np.int64] | None = None) -> Self:
        """An item's time is that of its first interaction.

        Args: added_ms: when each item came into the catalogue, which is the time of one without interactions, (N,);
            None: that is unknown.
        """
        times = np.full(interactions.n_items, np.inf)
        np.minimum.at(times, interactions.item, interactions.timestamp)
        if added_ms is not None:
            times = np.where(np.isinf(times), added_ms, times)
        return cls.of(times, until=np.inf)

    @classmethod
    def of(cls, times: NDArray[np.floating], *, until: float) -> Self:
        """Of times given, in any unit, NaN where unknown; a time of `until` or later is not known yet, (N,)."""
        return cls(np.where(times < until, times, -np.inf))

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The newest items that are not excluded, of those whose time is known."""
        return same_for_all(self.times, states, k, self.name)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: they are newer than all others."""
        newest = self.times.max(initial=0.0) + 1.0
        return type(self)(np.pad(self.times, (0, n_items - len(self.times)), constant_values=newest))

    def save(self, folder: Path) -> list[str]:
        """Writes fresh.safetensors."""
        return write_arrays(folder, self.name, {"times": self.times})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads fresh.safetensors."""
        return cls(*read_arrays(folder, cls.name, "times"))
