"""The second stage: a few hundred candidates out of the catalogue, without what must not be shown."""

from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from rec.recommender import Recommender
from rec.state import Candidates, UserStates


@final
class RetrieverStage:
    """Finds the candidates of the bundle's sources."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._n_candidates = recommender.config.ranker.n_candidates

    def __call__(self, states: UserStates, n: int) -> Candidates:
        """As many candidates as the ranker was trained on, or `n` where that is more."""
        return self._recommender.retrieve(states, max(n, self._n_candidates))

    def unranked(self, candidates: Candidates) -> NDArray[np.float64]:
        """What stands for the ranker's scores where it does not answer, (B, M)."""
        return self._recommender.unranked(candidates)


def without_excluded(candidates: Candidates, states: UserStates) -> Candidates:
    """The candidates that may be shown to their user, in the same order; the freed places are at the end.

    Sources leave out what is excluded by themselves; this is what holds when one does not.
    """
    excluded = np.zeros(candidates.items.shape, bool)
    banned = np.zeros(max(candidates.items.max(initial=-1), states.excluded.max(initial=-1)) + 1, bool)
    for user in range(len(states)):
        theirs = states.excluded[states.excluded_indptr[user] : states.excluded_indptr[user + 1]]
        banned[theirs] = True
        excluded[user] = banned[candidates.items[user]] & (candidates.items[user] >= 0)
        banned[theirs] = False
    if not excluded.any():
        return candidates
    order = np.argsort(excluded, axis=1, kind="stable")
    items = np.where(excluded, -1, candidates.items)
    scores = np.where(excluded, -np.inf, candidates.scores)
    return replace(candidates, items=items, scores=scores).taken(order)
