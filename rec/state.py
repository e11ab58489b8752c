"""What is known about users when they ask, and the candidates found for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class UserStates:
    """B users as retrieval and ranking see them; items are catalogue positions 0..N-1, -1 where there is none.

    Attributes:
        user: row in the users table, -1 for a user never seen, int32, (B,).
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
class Candidates:
    """Candidates of B users, best first.

    Attributes:
        items: catalogue positions, -1 where a user has fewer than M, int32, (B, M).
        scores: score of the source; -inf where items is -1, float64, (B, M).
        source: name of the source that found them.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float64]
    source: str
