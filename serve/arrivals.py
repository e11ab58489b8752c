"""A load that does not wait for the server: what comes is due at its own time, answered or not what came before.

A client that asks again when it has an answer asks a slow server less often, and measures least while it is slowest
(coordinated omission; Tene, 2013, "How NOT to measure latency"). Counted from when it was due, waiting is seen.
"""

import asyncio
from time import perf_counter
from typing import Any, Final, final

import numpy as np

# How much later than it was due something may begin; a timer of the event loop is a millisecond late.
LATE_S: Final = 0.05


@final
class Arrivals:
    """A Poisson process: as many a second on average, each independent of all others; belongs to one event loop."""

    def __init__(self, rate: float, n: int, rng: np.random.Generator) -> None:
        """Args: rate: a second, on average. n: how many."""
        self._rate = rate
        self._due_s = np.cumsum(rng.exponential(1 / rate, n)).tolist()
        self._began: float | None = None
        self._late_s: list[float] = []

    async def wait(self, place: int) -> float:
        """Returns when the one at a place is due, or at once where that is past; the first call starts the clock.

        Returns: when it was due, in seconds of `perf_counter`.
        """
        if self._began is None:
            self._began = perf_counter()
        due = self._began + self._due_s[place]
        await asyncio.sleep(max(due - perf_counter(), 0.0))
        self._late_s.append(max(perf_counter() - due, 0.0))
        return due

    def to_json(self) -> dict[str, Any]:
        """The rate that was asked for, how many began more than `LATE_S` late, and how late the latest did."""
        late = sum(late_s > LATE_S for late_s in self._late_s)
        return {"asked_per_s": self._rate, "late": late, "latest_s": max(self._late_s, default=0.0), "kept": not late}
