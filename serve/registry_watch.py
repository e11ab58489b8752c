"""Following CURRENT: what it names is loaded beside what serves, and takes over once it has answered."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, final

from rec.errors import BundleError
from rec.registry import CURRENT, Registry

# A version that was refused is tried again at times: the storage, and not the bundle, may have failed.
RETRY_S: Final = 60.0
_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """A promotion that did not take effect: `version` is None where CURRENT itself is gone or cannot be read."""

    version: str | None
    reason: str


@final
class RegistryWatch:
    """Looks at CURRENT, and has whatever it names take over; a version that fails to is reported, and nothing changes.

    Attributes:
        version: the one that serves.
        refused: what CURRENT names in vain, None while it is what serves.
        n_swaps: how often another version took over.
    """

    def __init__(
        self,
        registry: Registry,
        version: str,
        take_over: Callable[[str], Awaitable[None]],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Args: take_over: loads a version, checks it and switches to it; what it raises refuses the version."""
        self.version = version
        self.refused: Refused | None = None
        self.n_swaps = 0
        self._registry = registry
        self._take_over = take_over
        self._clock = clock
        self._retry_at = float("-inf")

    async def look(self) -> None:
        """Looks once; raises nothing."""
        try:
            current = await asyncio.to_thread(self._registry.current)
        except BundleError as error:
            self._refuse(None, error)
            return
        if current is None:
            self._refuse(None, BundleError(f"{CURRENT} is gone; promote a version to write it anew"))
            return
        if current == self.version:
            self.refused = None
            return
        if self.refused is not None and self.refused.version == current and self._clock() < self._retry_at:
            return
        try:
            await self._take_over(current)
        except Exception as error:
            self._refuse(current, error)
            return
        _LOG.info("model %s answers in place of %s", current, self.version)
        self.version, self.refused = current, None
        self.n_swaps += 1

    async def follow(self, every_s: float) -> None:
        """Looks at intervals, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.look()

    def _refuse(self, version: str | None, error: Exception) -> None:
        self._retry_at = self._clock() + RETRY_S
        refused = Refused(version, str(error))
        if refused != self.refused:
            _LOG.error("CURRENT is not taken up, %s goes on answering: %s", self.version, error)
        self.refused = refused
