"""What is known about users when they ask, and the candidates found for them."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# In the place of a row: users whom the users table does not hold. Of the second kind features are known.
NEVER_SEEN: Final = -1
DESCRIBED: Final = -2


@dataclass(frozen=True, slots=True)
class UserStates:
    """B users as retrieval and ranking see them; items are catalogue positions 0..N-1, -1 where there is none.

    Attributes:
        user: row in the users table, NEVER_SEEN or DESCRIBED for a user without one, int32, (B,).
        at_ms: the time the state describes, UTC milliseconds, (B,).
        history: latest items strictly before at_ms, oldest first, padded on the left with -1, int32, (B, H).
        features: encoded user features and as-of features by name; each (B,) or (B, L).
        excluded_indptr, excluded: items that must not be shown (seen or excluded), one run a user: those of user b
            are excluded[excluded_indptr[b]:excluded_indptr[b + 1]]; (B + 1,) and (nnz,).
    """

    user: NDArray[np.int32]
    at_ms: NDArray[np.int64]
    history: NDArray[np.int32]
    features: dict[str, NDArray[Any]]
    excluded_indptr: NDArray[np.int64]
    excluded: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def nothing_known(self) -> NDArray[np.bool_]:
        """Whose row, features and history are all unknown, (B,)."""
        return (self.user == NEVER_SEEN) & (self.history < 0).all(axis=1)

    def taken(self, rows: NDArray[np.integer]) -> "UserStates":
        """The states of some users, in this order."""
        runs = [self.excluded[self.excluded_indptr[row] : self.excluded_indptr[row + 1]] for row in rows]
        return UserStates(
            user=self.user[rows],
            at_ms=self.at_ms[rows],
            history=self.history[rows],
            features={name: values[rows] for name, values in self.features.items()},
            excluded_indptr=np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64),
            excluded=np.concatenate([*runs, self.excluded[:0]]),
        )

    def rows(self, rows: slice) -> "UserStates":
        """The states of consecutive users, in the same order."""
        start, stop, _ = rows.indices(len(self))
        bounds = self.excluded_indptr[start : max(start, stop) + 1]
        return UserStates(
            user=self.user[start:stop],
            at_ms=self.at_ms[start:stop],
            history=self.history[start:stop],
            features={name: values[start:stop] for name, values in self.features.items()},
            excluded_indptr=bounds - bounds[0],
            excluded=self.excluded[bounds[0] : bounds[-1]],
        )


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which sources found each candidate.

    Attributes:
        names: of the sources, the first of equals first.
        found_by: bit s is set where source names[s] found the candidate, 0 where there is none, uint16, (B, M).
    """

    names: tuple[str, ...]
    found_by: NDArray[np.uint16]

    def of(self, row: int, column: int) -> tuple[str, ...]:
        """The sources of one candidate, in the order of `names`."""
        bits = int(self.found_by[row, column])
        return tuple(name for place, name in enumerate(self.names) if bits >> place & 1)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of B users, best first.

    Attributes:
        items: catalogue positions, -1 where a user has fewer than M, int32, (B, M).
        scores: score of the source; -inf where items is -1, float64, (B, M).
        source: name of the source that found them.
        provenance: which of several sources found each; None where all are of `source`.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float64]
    source: str
    provenance: Provenance | None = None

    def of(self, row: int) -> "Candidates":
        """Those of one user, as of a batch of one."""
        found = self.provenance
        return Candidates(
            self.items[row : row + 1],
            self.scores[row : row + 1],
            self.source,
            None if found is None else Provenance(found.names, found.found_by[row : row + 1]),
        )

    def sources_of(self, row: int, column: int) -> tuple[str, ...]:
        """The names of the sources that found a candidate; the first of them counts as its source."""
        return (self.source,) if self.provenance is None else self.provenance.of(row, column)

    def taken(self, columns: NDArray[np.integer]) -> "Candidates":
        """The candidates in these columns of each row, (B, K); K may be less than M."""
        return Candidates(
            np.take_along_axis(self.items, columns, axis=1),
            np.take_along_axis(self.scores, columns, axis=1),
            self.source,
            self.provenance
            and Provenance(self.provenance.names, np.take_along_axis(self.provenance.found_by, columns, axis=1)),
        )
