"""The time that a request has, and how much of it the ranker may take before it is done without."""

from dataclasses import dataclass
from math import inf
from typing import Final, final


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Until when a request is to be answered, in seconds of the event loop's clock, and what the ranker gets at most.

    Every other hop has until the end, as there is no answer without it.
    """

    ends_at: float
    rank_s: float

    def rank_until(self, now: float) -> float:
        """When the ranker is given up: what comes after it has as long as it had, whatever was spent before."""
        return now + min(self.rank_s, max(self.ends_at - now, 0.0) / 2)


UNLIMITED: Final = Budget(inf, inf)
