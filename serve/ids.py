"""Ids that no other has, and that of a request over HTTP, which its client may choose.

Ray Serve sends the id of a request back as the client wrote it, in a header of its own beside ours. `OneRequestId` goes
around all that Serve answers, so that there is one, and it is harmless. Serve takes it from a variable, which is read
when a cluster starts: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.ids:around_serve.
"""

import re
import secrets
import time
from collections.abc import Iterable
from typing import Final, final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_HEADER: Final = b"x-request-id"
# What a client may call its request; anything else could forge lines of a log that is read by eye.
CLIENT_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")

Headers = list[tuple[bytes, bytes]]


def new_id() -> str:
    """An id that no other has, 32 hexadecimal digits; ids of later milliseconds sort after it."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def request_id_of(scope: Scope) -> str:
    """What the client calls a request, where it may be called that, or a new id."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_HEADER), b"")
    return given.decode() if CLIENT_ID.fullmatch(given) else new_id()


def with_request_id(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """The headers, of which one is the id, whatever they said of it."""
    others = [(name, value) for name, value in headers if name.lower() != REQUEST_HEADER]
    return [*others, (REQUEST_HEADER, request_id.encode())]


@final
class OneRequestId:
    """Lets an application see one id of each request, and say one in its answer: the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": with_request_id(message.get("headers", ()), request_id)}
            await send(message)

        await self._app({**scope, "headers": with_request_id(scope["headers"], request_id)}, receive, send_once)


def around_serve() -> list[Middleware]:
    """What Serve is to put around what it answers with."""
    return [Middleware(OneRequestId)]
