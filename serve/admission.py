"""What lets a request in: a key, room beside the others, a body that is small and in time, and until when it has."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any, Final, final

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.types import Receive, Scope

from serve.bodies import read_body
from serve.budget import Budget
from serve.config import ServeConfig
from serve.guard import Guard
from serve.keys import Role
from serve.problems import ProblemError, busy

BEARER: Final = HTTPBearer(auto_error=False, description="A key of `tandem keys create`, where the server has any")


@final
class Admission:
    """The gates of one process's interface; belongs to one event loop.

    Attributes:
        guard: who may do what; None: everybody everything.
        n_ongoing: requests that are being answered.
    """

    def __init__(self, config: ServeConfig, guard: Guard | None) -> None:
        """Args: config: of which the limits count."""
        self.guard = guard
        self.n_ongoing = 0
        self._config = config

    def admit(self, scope: Scope, role: Role) -> str:
        """The id of the key that a request was let in by, empty for none. Raises: ProblemError: as `Guard.admit`."""
        return "" if self.guard is None else self.guard.admit(header(scope, "authorization"), role)

    def allowed(self, role: Role) -> list[Any]:
        """What a route of FastAPI depends on, so that only keys of a role open it."""

        async def admitted(request: Request) -> None:
            self.admit(request.scope, role)

        return [Depends(BEARER), Depends(admitted)]

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, which is announced as JSON: no page of another site may send that without being allowed to.

        Raises: ProblemError: where it is not, and as `read_body`.
        """
        given = header(scope, "content-type") or ""
        if given.partition(";")[0].strip().lower() != "application/json":
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"content-type: application/json is required; found {given[:80]!r}",
                "content-type",
            )
        return await read_body(receive, self._config.max_body_bytes, self._config.body_timeout_s)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Raises: ProblemError: when as many requests are being answered as there may be."""
        if self.n_ongoing >= self._config.max_ongoing_requests:
            raise busy(f"{self.n_ongoing} requests are being answered; try again later")
        self.n_ongoing += 1
        try:
            yield
        finally:
            self.n_ongoing -= 1

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[Budget]:
        """The time for what is done inside.

        Raises: ProblemError: when it takes longer.
        """
        config = self._config
        ends_at = asyncio.get_running_loop().time() + config.deadline_s
        try:
            async with asyncio.timeout_at(ends_at):
                yield Budget(ends_at, config.rank_timeout_s)
        except TimeoutError as error:
            raise busy(f"there was no answer within {config.deadline_s:g} s; try again later") from error

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Raises: ProblemError: as `room` and `deadline`."""
        with self.room():
            async with self.deadline():
                yield


def header(scope: Scope, wanted: str) -> str | None:
    """The first header of a name in lower case; None where there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted.encode()), None)
