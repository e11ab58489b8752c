"""Many clients that post to a server, each over a connection of its own that stays open, and what each answer took.

One client costs its machine about 60 microseconds a request, so that the server is what is measured.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, final
from urllib.parse import urlsplit

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; `started` and `ended` are seconds of one monotonic clock."""

    status: int
    body: bytes
    started: float
    ended: float


async def post_all(url: str, bodies: Sequence[bytes], *, clients: int) -> list[Reply]:
    """Posts JSON bodies to one address, every client its next one as soon as it has an answer.

    Args: url: with host and port. bodies: taken in order by whichever client is free. clients: open connections.
    Returns: the replies in the order of the bodies.
    Raises: ConnectionError: when the server ends a connection before it has answered.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if host is None or port is None:
        raise ValueError(f"url must hold a host and a port; found {url!r}")
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    left = iter([(place, f"{head}{len(body)}\r\n\r\n".encode() + body) for place, body in enumerate(bodies)])
    replies: dict[int, Reply] = {}
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: _Client(left, replies), host, port)
        for _ in range(min(clients, len(bodies)))
    ]
    for _, client in opened:
        client.send_next()
    try:
        await asyncio.gather(*(client.finished for _, client in opened))
    finally:
        for transport, _ in opened:
            transport.close()
    return [replies[place] for place in range(len(bodies))]


@final
class _Client(asyncio.Protocol):
    """One connection: sends a request, waits for its answer, sends the next."""

    def __init__(self, requests: Iterator[tuple[int, bytes]], replies: dict[int, Reply]) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._replies = replies
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send_next(self) -> None:
        """Sends the next request there is."""
        following = next(self._requests, None)
        if following is None:
            self.finished.set_result(None)
            return
        self._place, request = following
        self._received = b""
        self._started = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        head, body = self._received[:end], self._received[end + len(_HEAD_END) :]
        if len(body) < _content_length(head):
            return
        self._replies[self._place] = Reply(int(head[9:12]), body, self._started, perf_counter())
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_exception(exc or ConnectionResetError("the server closed the connection"))


def _content_length(head: bytes) -> int:
    start = head.lower().index(_LENGTH) + len(_LENGTH)
    return int(head[start:].split(b"\r\n", 1)[0])
