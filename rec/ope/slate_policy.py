"""What a policy ranks for logged requests, and how likely it is to show each of its candidates."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rec.eligibility import GroupCap
from rec.ope.estimate import Floats
from rec.policy import position_probabilities

Positions = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True)
class SlatePolicy:
    """What a policy ranks for Q requests, and how it draws slates from that; see `rec.policy`.

    Attributes:
        candidates: item codes, distinct in a row, -1 for none, (Q, M).
        scores: (Q, M).
        epsilon, temperature: of each request, (Q,).
        cap: the rule under which it draws, by item code; None where there is none.
    """

    candidates: Positions
    scores: Floats
    epsilon: Floats
    temperature: Floats
    cap: GroupCap | None = None

    def drawn_alike(self) -> list[tuple[Positions, float, float]]:
        """Rows of equal epsilon and temperature, with these."""
        pairs, which = np.unique(np.stack([self.epsilon, self.temperature], axis=1), axis=0, return_inverse=True)
        rows = [np.flatnonzero(which.reshape(-1) == number) for number in range(len(pairs))]
        return [(own, float(e), float(t)) for own, (e, t) in zip(rows, pairs.tolist(), strict=True)]

    def last_positions(self, slate: Positions) -> Positions:
        """The last position at which each candidate could be drawn in these slates, K for one that stays; (Q, M).

        Args: slate: item codes, -1 after the end, (Q, K).
        """
        last = np.full(self.candidates.shape, slate.shape[1])
        if self.cap is not None:
            groups = self.cap.of(self.candidates)
            for position in reversed(range(slate.shape[1])):
                closed = self.cap.closed_by(slate[:, : position + 1])[:, None]
                last[(groups == closed) & (closed >= 0)] = position
        rows, positions = np.nonzero((column := columns_of(self.candidates, slate)) >= 0)
        shown = column[rows, positions]
        last[rows, shown] = np.minimum(last[rows, shown], positions)
        return last

    def chances(self, remain: NDArray[np.bool_], n_eligible: Positions) -> tuple[Floats, Floats]:
        """The probability of each candidate at a position, 0 of those gone, and of any one other eligible item.

        Args: remain: which candidates do, (Q, M). n_eligible: items that do, these included, (Q,).
        Returns: (Q, M) and (Q,).
        """
        p, other = np.zeros(self.scores.shape), np.zeros(len(self.scores))
        for rows, epsilon, temperature in self.drawn_alike():
            p[rows], other[rows] = position_probabilities(
                self.scores[rows], remain[rows], n_eligible[rows], epsilon=epsilon, temperature=temperature
            )
        return p, other


def columns_of(table: Positions, wanted: Positions) -> Positions:
    """Where each item of `wanted` (Q, J) stands in the same row of `table` (Q, M), whose items differ; -1: nowhere."""
    width = int(max(table.max(initial=0), wanted.max(initial=0))) + 1
    row = np.arange(len(table))[:, None] * width
    keys = np.where(table >= 0, row + table, -1).reshape(-1)
    order = keys.argsort(kind="stable")
    asked = np.where(wanted >= 0, row + wanted, -2)
    place = order[np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)]
    return np.where(keys[place] == asked, place % table.shape[1], -1)
