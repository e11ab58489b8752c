"""The HTTP interface: an ASGI application around a gateway, which knows no Ray.

A recommendation takes a short path past FastAPI, which costs a third as much processor time; FastAPI documents it,
and answers everything else.
"""

import logging
from http import HTTPStatus
from time import perf_counter
from typing import Final, final

from starlette.types import Message, Receive, Scope, Send

from serve.admission import Admission, header
from serve.bodies import parse_request
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.guard import Guard
from serve.hosts import Hosts
from serve.ids import request_id_of, with_request_id
from serve.json_log import REQUEST_ID
from serve.metrics import SharedMetrics
from serve.problems import PROBLEM_JSON, ProblemError
from serve.request_log import KEY
from serve.routes import FAILED, RECOMMEND, Answer, problem_response, routes

# The route of a request that no route takes: what it asked for may be anything, and is no label.
OTHER: Final = "other"
_JSON: Final = b"application/json"
# What only an explained answer has.
_EXPLANATION: Final = {"stages", "sources", "candidates", "session"}
# On every answer: it is what its type says, belongs into no frame, and tells nobody where it came from.
_SAFETY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_LOG: Final = logging.getLogger(__name__)


@final
class Api:
    """The ASGI application."""

    def __init__(
        self,
        gateway: Gateway,
        config: ServeConfig,
        guard: Guard | None = None,
        metrics: SharedMetrics | None = None,
    ) -> None:
        """Args: config: of which the limits count. guard: who may do what; without one, everybody everything."""
        self._gateway = gateway
        self._admission = Admission(config, guard)
        self._hosts = Hosts(config)
        self._metrics = SharedMetrics(None) if metrics is None else metrics
        self._documented = routes(gateway, self._admission, self._metrics, self._recommend)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one connection's request."""
        if scope["type"] != "http":
            await self._documented(scope, receive, send)
            return
        started, status = perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR
        request_id = request_id_of(scope)
        REQUEST_ID.set(request_id)

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*with_request_id(message["headers"], request_id), *_SAFETY]}
            await send(message)

        try:
            await self._dispatch(scope, receive, send_safely)
        finally:
            self._measure(scope, int(status), perf_counter() - started)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._hosts.check(header(scope, "host"))
        except ProblemError as error:
            await problem_response(error)(scope, receive, send)
            return
        if scope["method"] == "POST" and scope["path"] == RECOMMEND:
            status, content_type, body, more = await self._recommend(scope, receive)
            length = str(len(body)).encode()
            headers = [(b"content-type", content_type), (b"content-length", length)]
            headers += [(name.encode(), value.encode()) for name, value in more.items()]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._documented(scope, receive, send)

    async def _recommend(self, scope: Scope, receive: Receive) -> Answer:
        try:
            owner = self._admission.admit(scope, "recommend")
            with self._admission.room():
                request = parse_request(await self._admission.body(scope, receive))
                async with self._admission.deadline() as budget:
                    answer = await self._gateway.recommend(request, header(scope, KEY), budget, owner)
            left_out = _EXPLANATION if answer.stages is None else None
            return HTTPStatus.OK, _JSON, answer.model_dump_json(exclude=left_out).encode(), {}
        except ProblemError as error:
            problem = error
        except Exception:
            _LOG.exception("recommend failed")
            problem = ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
        return problem.status, PROBLEM_JSON.encode(), problem.body, problem.headers

    def _measure(self, scope: Scope, status: int, seconds: float) -> None:
        route = RECOMMEND if scope["path"] == RECOMMEND else getattr(scope.get("route"), "path", OTHER)
        self._metrics.own.add("tandem_requests_total", route, str(status))
        self._metrics.own.observe("tandem_request_seconds", route, values=[seconds])
        if _LOG.isEnabledFor(logging.INFO):
            told = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 3)}
            _LOG.info("answered", extra={"fields": told})
