"""The time that a request has, and how much of it the ranker may take before it is done without."""

from dataclasses import dataclass
from math import inf
from typing import Final, final

FAILURES: Final = 5
REST_S: Final = 2.0


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


@final
class Breaker:
    """Whether to ask what failed: after `FAILURES` in a row one call every `REST_S` finds out whether it still does.

    So what hangs costs nobody else its whole time. Belongs to one thread; times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self._n_failures = 0
        self._again_at = -inf

    def asks(self, now: float) -> bool:
        """Whether to ask now."""
        if self._n_failures >= FAILURES:
            if now < self._again_at:
                return False
            self._again_at = now + REST_S
        return True

    def succeeded(self) -> None:
        """It answered."""
        self._n_failures = 0

    def failed(self, now: float) -> None:
        """It raised, or did not answer in time."""
        self._n_failures += 1
        self._again_at = now + REST_S


UNLIMITED: Final = Budget(inf, inf)
