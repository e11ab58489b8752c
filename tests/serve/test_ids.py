"""Ids: distinct, in the order of time; and one of each request, also where Ray Serve adds its own."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from ray.serve._private.http_util import RequestIdMiddleware

from serve.api import Api
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.ids import CLIENT_ID, OneRequestId, new_id

HEADER = "x-request-id"


def test_ids_are_distinct_and_sort_by_time():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [each[:12] for each in ids] == sorted(each[:12] for each in ids)


@pytest.mark.parametrize("path", ["/health/live", "/no/such/path"])
@pytest.mark.parametrize(
    ("given", "kept"), [(["abc-1.2_3"], True), ([], False), (["a b"], False), (["x" * 129], False), (["a", "b"], True)]
)
def test_an_answer_has_one_id_though_serve_adds_the_clients(
    gateway: Gateway, ask: Callable[..., httpx.Response], path: str, given: list[str], kept: bool
):
    """Within Serve's own middleware, as in its proxies and replicas."""
    seen: list[Any] = []
    api = Api(gateway, ServeConfig(home="."))

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value.decode() for name, value in scope["headers"] if name == HEADER.encode())
        await api(scope, receive, send)

    served = OneRequestId(RequestIdMiddleware(inside))
    response = ask(served, "GET", path, headers=[(HEADER, each) for each in given])
    (told,) = response.headers.get_list(HEADER)
    assert seen == [told] and CLIENT_ID.fullmatch(told.encode())
    assert (told == (given or [""])[0]) is kept
