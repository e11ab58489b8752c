"""Many clients that post to a server, each over a connection of its own that stays open, and what each answer took.

A request costs the clients' machine about 0.1 ms of processor time, so that the server is what is measured.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Self, final
from urllib.parse import urlsplit

ATTEMPTS: Final = 2
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
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if host is None or port is None:
        raise ValueError(f"url must hold a host and a port; found {url!r}")
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    left = iter([(place, f"{head}{len(body)}\r\n\r\n".encode() + body) for place, body in enumerate(bodies)])
    replies: dict[int, Reply] = {}
    tasks = [asyncio.create_task(_post(host, port, left, replies)) for _ in range(min(clients, len(bodies)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [replies[place] for place in range(len(bodies))]


async def _post(host: str, port: int, requests: Iterator[tuple[int, bytes]], replies: dict[int, Reply]) -> None:
    """One client: sends requests until there are no more."""
    connection = await _Connection.open(host, port)
    try:
        for place, request in requests:
            attempts, answer, started = 0, None, perf_counter()
            while answer is None:
                if connection.lost:
                    connection = await _Connection.open(host, port)
                attempts += 1
                try:
                    answer = await connection.ask(request)
                except ConnectionError:
                    if attempts == ATTEMPTS:
                        raise
            replies[place] = Reply(*answer, started, perf_counter(), attempts)
    finally:
        connection.close()


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
