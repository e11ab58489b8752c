"""The third stage: the order of the candidates."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from rec.recommender import Recommender
from rec.state import Candidates, UserStates


@final
class RankerStage:
    """Scores candidates with the bundle's ranker."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def __call__(self, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
        """Scores, higher is better, -inf where there is no candidate, (B, M)."""
        return self._recommender.rank(states, candidates)
