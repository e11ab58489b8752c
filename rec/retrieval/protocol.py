"""What finds candidates: one interface for learned and counted sources."""

from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

from rec.state import Candidates, UserStates


class CandidateSource(Protocol):
    """Finds the best items of the whole catalogue for each user, the same ones for the same state.

    Each source has a `fit` and a `load` of its own, as each learns from something else and needs something else beside
    its files. A loaded source finds what the saved one found.
    """

    name: ClassVar[str]
    """What reports, files and `Candidates.source` call it."""

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The k best items of each user, best first and ties by item position; excluded items are never among them.

        A source names what speaks for its items: what it knows nothing of is no candidate. So a user for whom it finds
        fewer than k gets a shorter row, filled with -1. A user about whom nothing is known gets an answer too.
        """
        ...

    def save(self, folder: Path) -> list[str]:
        """Writes the source into files that bear its name, and returns what they are called."""
        ...


@runtime_checkable
class ExtensibleSource(CandidateSource, Protocol):
    """A source whose catalogue can grow without fitting it anew."""

    def extended(self, n_items: int) -> Self:
        """The same source for a catalogue of n_items, of which those at the end were added.

        The others keep their places, and what is found among them does not change.
        """
        ...
