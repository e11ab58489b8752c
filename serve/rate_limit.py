"""How many requests a key may make: a bucket of tokens each, filled steadily up to a burst."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final, final

# Buckets kept; one that was forgotten is full again, as it would be after burst / rate seconds anyway.
CAPACITY: Final = 10_000


@final
class RateLimit:
    """Token buckets by key: `rate` requests a second on average, and `burst` at once."""

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """Takes one request out of a key's bucket: 0 where it may be answered, else when to come again, in seconds.

        What is refused takes nothing, so whoever waits that long is answered.
        """
        now = self._clock()
        tokens, at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        allowed = tokens >= 1.0 - 1e-9
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > CAPACITY:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._rate
