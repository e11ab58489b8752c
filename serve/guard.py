"""The gate of a service: which key may do what, and how often."""

import asyncio
import logging
import math
from http import HTTPStatus
from typing import Final, final

from rec.errors import BundleError, DataError
from rec.storage import Home
from serve.config import LOOPBACK, ServeConfig
from serve.keys import KeyRing, KeyStore, Role, bearer
from serve.problems import ProblemError
from serve.rate_limit import RateLimit

# How old the keys may be that are known here.
REFRESH_S: Final = 2.0
# Whoever sends no key shares one bucket with all others who do not.
ANYBODY: Final = ""
_LOG: Final = logging.getLogger(__name__)


@final
class Guard:
    """Lets requests in, by the keys of a home and a rate for each.

    Attributes: closed: whether a key is needed; what has once needed one does so until it is started anew, so that keys
        that are lost open nothing.
    """

    def __init__(self, config: ServeConfig) -> None:
        """Reads the keys.

        Raises: BundleError: when the storage does not answer.
        """
        self._store = KeyStore(Home(config.home))
        self._keys = config.keys
        rate = config.requests_per_s
        # Requests are spread over the gateways, and each has a share of the rate.
        self._limit = None if rate is None else RateLimit(rate / config.replicas, config.burst / config.replicas)
        self._ring = KeyRing([])
        self.closed = self._keys == "required" or (self._keys == "auto" and config.host not in LOOPBACK)
        self.refresh()

    async def follow(self) -> None:
        """Takes up keys that are made or revoked, until cancelled; while the storage fails, all stays as it is."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await asyncio.to_thread(self.refresh)
            except BundleError:
                _LOG.exception("the keys cannot be read; those of before go on")

    def refresh(self) -> None:
        """Takes up keys that were made or revoked.

        Raises: BundleError: when the storage does not answer.
        """
        found, n_before = self._store.read(), len(self._ring)
        self._ring = KeyRing(found.keys)
        if self._keys == "auto" and (found.keys or found.n_damaged):
            self.closed = True
        if n_before and self.locked:
            _LOG.error("no key opens the service any more: make one, or start it anew where none is to be needed")

    def admit(self, authorization: str | None, role: Role) -> str:
        """Lets a request in.

        Args: authorization: the header. role: what the request takes.
        Returns: the id of the key, empty for a request without one.
        Raises: ProblemError: 401 without a key that opens anything, 403 for one of another role, 429 for too many.
        """
        key_id = self._identified(authorization, role) if self.closed else ANYBODY
        wait_s = 0.0 if self._limit is None else self._limit.wait_s(key_id)
        if wait_s:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "more requests than this key may make; try again later",
                retry_after_s=math.ceil(wait_s),
            )
        return key_id

    def _identified(self, authorization: str | None, role: Role) -> str:
        try:
            key = self._ring.find(bearer(authorization))
        except DataError as error:
            raise ProblemError(HTTPStatus.UNAUTHORIZED, str(error.message), error.field) from error
        if key is None:
            raise ProblemError(
                HTTPStatus.UNAUTHORIZED, "a key is required: `Authorization: Bearer KEY`", "authorization"
            )
        if not key.may(role):
            raise ProblemError(HTTPStatus.FORBIDDEN, f"this key does not have the role {role}", "authorization")
        return key.id

    @property
    def locked(self) -> bool:
        """Whether nobody may do anything, for want of a key."""
        return self.closed and not self._ring
