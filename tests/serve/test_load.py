import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from serve.load import Client, post_all


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    closing = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"close" and Echo.closing:
            Echo.closing -= 1
            self.close_connection = True
            return
        self.send_response(200 if self.path == "/echo" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("clients", [1, 3, 50])
def test_every_body_gets_its_own_answer(address: str, clients: int):
    bodies = [str(place).encode() * place for place in range(40)]
    replies = asyncio.run(post_all(f"{address}/echo", bodies, clients=clients))
    assert [reply.body for reply in replies] == bodies
    assert all(reply.status == 200 and reply.ended > reply.started for reply in replies)


def test_one_client_waits_for_each_answer(address: str):
    replies = asyncio.run(post_all(f"{address}/nothing", [b"a"] * 10, clients=1))
    assert all(after.started >= before.ended for before, after in pairwise(replies))
    assert {reply.status for reply in replies} == {404}


def test_a_request_without_an_answer_is_sent_once_more(address: str):
    Echo.closing = 1
    replies = asyncio.run(post_all(f"{address}/echo", [b"a", b"close", b"b"], clients=1))
    assert [(reply.body, reply.attempts) for reply in replies] == [(b"a", 1), (b"close", 2), (b"b", 1)]


@pytest.mark.parametrize("url", ["https://localhost:8000", "localhost:8000", "http://localhost"])
def test_what_would_be_sent_in_the_clear_or_nowhere_is_refused(url: str):
    with pytest.raises(ValueError, match="url must"):
        Client(url)


def test_a_request_that_never_has_an_answer_is_an_error(address: str):
    Echo.closing = 2
    with pytest.raises(ConnectionError):
        asyncio.run(post_all(f"{address}/echo", [b"a", b"close"], clients=1))
