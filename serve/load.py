"""Many clients that post to a server, each over a connection of its own that stays open, and what each answer took.

A request costs the clients' machine about 0.1 ms of processor time, so that the server is what is measured.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Final, Self, final
from urllib.parse import urlsplit

ATTEMPTS: Final = 2
ERRORS_FROM: Final = 500
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `started` and `ended` are seconds of one monotonic clock, over all `attempts`."""

    status: int
    body: bytes
    started: float
    ended: float
    attempts: int


async def post_all(url: str, bodies: Sequence[bytes], *, clients: int) -> list[Reply]:
    """Posts JSON bodies to one address, every client its next one as soon as it has an answer.

    A request whose connection is lost before the answer is sent once more, as HTTP clients do: a proxy that takes up a
    new configuration ends the connections of its old one.

    Args: url: with host and port. bodies: taken in order by whichever client is free. clients: open connections.
    Returns: the replies in the order of the bodies.
    Raises: ConnectionError: when a request was sent twice and had no answer.
    """
    left = iter([(place, post_request(url, "", body)) for place, body in enumerate(bodies)])
    replies: dict[int, Reply] = {}

    async def take(client: Client) -> None:
        for place, request in left:
            replies[place] = await client.send(request)

    posting = [Client(url) for _ in range(min(clients, len(bodies)))]
    tasks = [asyncio.create_task(take(client)) for client in posting]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task, client in zip(tasks, posting, strict=True):
            task.cancel()
            client.close()
    return [replies[place] for place in range(len(bodies))]


def post_request(url: str, path: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A POST of JSON to a path below that of a URL, as it goes over a connection to its host."""
    base = urlsplit(url)
    lines = {"Host": base.netloc, "Content-Type": "application/json", **headers, "Content-Length": len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {base.path.rstrip('/')}{path} HTTP/1.1\r\n{head}\r\n".encode() + body


@final
class Client:
    """A client with one connection, opened when it is needed, that sends one request at a time."""

    def __init__(self, url: str, *, retry_errors: bool = False) -> None:
        """Args: url: with host and port. retry_errors: whether answers from 500 on are asked for once more, too.

        Raises: ValueError: for a URL without host or port, or of another scheme than http.
        """
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise ValueError(f"url must begin with http://, as TLS is not spoken here; found {url!r}")
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"url must hold a host and a port; found {url!r}")
        self._address = parts.hostname, parts.port
        self._retry_from = ERRORS_FROM if retry_errors else math.inf
        self._connection: _Connection | None = None

    async def send(self, request: bytes) -> Reply:
        """The answer to a request, which is sent once more when its connection is lost before.

        Raises: ConnectionError: when it was sent twice and had no answer.
        """
        started = perf_counter()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._connection is None or self._connection.lost:
                    self._connection = await _Connection.open(*self._address)
                status, body = await self._connection.ask(request)
            except ConnectionError:
                if attempt == ATTEMPTS:
                    raise
                continue
            if status < self._retry_from or attempt == ATTEMPTS:
                return Reply(status, body, started, perf_counter(), attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()


@final
class _Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.lost = False
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises: ConnectionError: when the connection is lost before.
        """
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if end and self._answer is not None and len(body) >= _content_length(head):
            self.lost = b"\r\nconnection: close" in head.lower()
            self._answer.set_result((int(head[9:12]), body))
            self._answer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None:
            error = exc if isinstance(exc, ConnectionError) else ConnectionResetError("the server ended the connection")
            self._answer.set_exception(error)
            self._answer = None


def _content_length(head: bytes) -> int:
    start = head.lower().index(_LENGTH) + len(_LENGTH)
    return int(head[start:].split(b"\r\n", 1)[0])
