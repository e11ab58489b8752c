"""A list that somebody decided on: campaigns, editors' choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import ConfigError
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.top_k import same_for_all
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True, slots=True)
class Business:
    """The same list for everybody, in the order given, and nothing else; -inf for other items, (N,)."""

    scores: NDArray[np.float64]
    name: ClassVar[str] = "business"

    @classmethod
    def of(cls, listed: Sequence[str], item_ids: NDArray[np.object_]) -> Self:
        """The list of a config.

        Args: listed: item ids, best first. item_ids: of the catalogue, (N,).
        Raises: ConfigError: naming the items that are not in the catalogue.
        """
        position = {item_id: place for place, item_id in enumerate(item_ids)}
        unknown = [item_id for item_id in listed if item_id not in position]
        if unknown:
            raise ConfigError(
                f"every item of the list must be in the catalogue of {len(item_ids)} items; {len(unknown)} of "
                f"{len(listed)} are not, the first {unknown[0]!r}: correct the ids, or leave them out",
                field="sources.business",
            )
        scores = np.full(len(item_ids), -np.inf)
        scores[[position[item_id] for item_id in listed]] = np.arange(len(listed), 0, -1)
        return cls(scores)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the list that are not excluded; a shorter row than k where the list is shorter."""
        return same_for_all(self.scores, states, k, self.name)

    def extended(self, n_items: int) -> Self:
        """The same list for a catalogue to which items were added at the end."""
        return type(self)(np.pad(self.scores, (0, n_items - len(self.scores)), constant_values=-np.inf))

    def save(self, folder: Path) -> list[str]:
        """Writes business.safetensors."""
        return write_arrays(folder, self.name, {"scores": self.scores})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads business.safetensors."""
        return cls(*read_arrays(folder, cls.name, "scores"))
