"""The HTTP interface: an ASGI application around a gateway, which knows no Ray.

A recommendation takes a short path past FastAPI, which costs a third as much processor time; FastAPI documents it,
and answers everything else.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from time import perf_counter
from typing import Annotated, Any, Final, final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from pydantic import Field, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from rec import __version__
from serve.budget import Budget
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.guard import Guard
from serve.hands import Hands
from serve.hosts import Hosts
from serve.ids import request_id_of, with_request_id
from serve.json_log import REQUEST_ID
from serve.keys import Role
from serve.metrics import SharedMetrics
from serve.page import add_page
from serve.problems import PROBLEM_JSON, ProblemError, busy, invalid, problem_body, responses
from serve.request_log import KEY, MAX_KEY_LENGTH
from serve.schemas import (
    MAX_EVENTS,
    FeedbackEvent,
    FeedbackResponse,
    HealthResponse,
    ItemResponse,
    ModelsResponse,
    RecommendRequest,
    RecommendResponse,
)

RECOMMEND: Final = "/v1/recommend"
# The route of a request that no route takes: what it asked for may be anything, and is no label.
OTHER: Final = "other"
FAILED: Final = "the server failed; its log says why"
_JSON: Final = b"application/json"
# What only an explained answer has.
_EXPLANATION: Final = {"stages", "sources", "candidates", "session"}
_EVENTS: Final = TypeAdapter(Annotated[list[FeedbackEvent], Field(min_length=1, max_length=MAX_EVENTS)])
_BODY_PROBLEMS: Final = {
    HTTPStatus.REQUEST_TIMEOUT: "The body took too long to arrive",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The content type is another than application/json",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A field is wrong",
}
_KEY_PROBLEMS: Final = {
    HTTPStatus.UNAUTHORIZED: "A key is required",
    HTTPStatus.FORBIDDEN: "The key does not have the role that this takes",
    HTTPStatus.TOO_MANY_REQUESTS: "More requests than the key may make; try again later",
}
_HOST_PROBLEM: Final = {HTTPStatus.MISDIRECTED_REQUEST: "The service does not answer by the name in Host"}
_BUSY: Final = {HTTPStatus.SERVICE_UNAVAILABLE: "Too much at once, or too late; try again"}
_BEARER: Final = HTTPBearer(auto_error=False, description="A key of `tandem keys create`, where the server has any")
# On every answer: it is what its type says, belongs into no frame, and tells nobody where it came from.
_SAFETY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}
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
        self._config = config
        self._guard = guard
        self._hosts = Hosts(config)
        self._metrics = SharedMetrics(None) if metrics is None else metrics
        self._n_ongoing = 0
        self._registry, self._files = Hands("registry", n_threads=2), Hands("metrics", n_threads=1)
        self._documented = self._routes()

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
            self._hosts.check(_header(scope, "host"))
        except ProblemError as error:
            await _answer(error)(scope, receive, send)
            return
        if scope["method"] == "POST" and scope["path"] == RECOMMEND:
            status, content_type, body, more = await self._recommend(receive, scope)
            length = str(len(body)).encode()
            headers = [(b"content-type", content_type), (b"content-length", length)]
            headers += [(name.encode(), value.encode()) for name, value in more.items()]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._documented(scope, receive, send)

    async def _recommend(self, receive: Receive, scope: Scope) -> tuple[int, bytes, bytes, dict[str, str]]:
        """Status, content type, body and further headers of the answer."""
        try:
            owner = self._admit(scope, "recommend")
            with self._room():
                request = parse_request(await self._body(scope, receive))
                async with self._deadline() as budget:
                    answer = await self._gateway.recommend(request, _header(scope, KEY), budget, owner)
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

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, which is announced as JSON: no page of another site may send that without being allowed to.

        Raises: ProblemError: where it is not, and as `read_body`.
        """
        given = _header(scope, "content-type") or ""
        if given.partition(";")[0].strip().lower() != "application/json":
            raise ProblemError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"content-type: application/json is required; found {given[:80]!r}",
                "content-type",
            )
        return await read_body(receive, self._config.max_body_bytes, self._config.body_timeout_s)

    def _admit(self, scope: Scope, role: Role) -> str:
        """The id of the key that a request was let in by, empty for none. Raises: ProblemError: as `Guard.admit`."""
        return "" if self._guard is None else self._guard.admit(_header(scope, "authorization"), role)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Raises: ProblemError: when as many requests are being answered as there may be."""
        if self._n_ongoing >= self._config.max_ongoing_requests:
            raise busy(f"{self._n_ongoing} requests are being answered; try again later")
        self._n_ongoing += 1
        try:
            yield
        finally:
            self._n_ongoing -= 1

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[Budget]:
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
    async def _bounded(self) -> AsyncIterator[None]:
        """Raises: ProblemError: as `_room` and `_deadline`."""
        with self._room():
            async with self._deadline():
                yield

    def _allowed(self, role: Role) -> list[Any]:
        """What a route of FastAPI depends on, so that only keys of a role open it."""

        async def admitted(request: Request) -> None:
            self._admit(request.scope, role)

        return [Depends(_BEARER), Depends(admitted)]

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="Tandem",
            version=__version__,
            summary="A two-stage recommender that knows the odds of what it shows",
            redirect_slashes=False,
            responses=responses(_HOST_PROBLEM),
        )
        app.add_exception_handler(HTTPException, _http_problem)
        app.add_exception_handler(ProblemError, _problem)
        app.add_exception_handler(Exception, _server_problem)
        gateway = self._gateway

        @app.post(
            RECOMMEND,
            response_model=RecommendResponse,
            openapi_extra={"requestBody": _body_of(RecommendRequest.model_json_schema()), "parameters": [_KEY]},
            dependencies=[Depends(_BEARER)],
            responses=responses(
                _KEY_PROBLEMS
                | _BODY_PROBLEMS
                | {HTTPStatus.SERVICE_UNAVAILABLE: "Too much at once, too late, or not to be logged; try again"}
            ),
        )
        async def recommend(request: Request) -> Response:
            """Recommend items to a user; a user never seen gets what is popular.

            With an `Idempotency-Key`, the same request sent again gets the same answer, which is logged once.
            """
            status, content_type, body, more = await self._recommend(request.receive, request.scope)
            return Response(body, status, headers=more, media_type=content_type.decode())

        @app.post(
            "/v1/feedback",
            status_code=HTTPStatus.ACCEPTED,
            openapi_extra={"requestBody": _body_of(_events_schema())},
            dependencies=self._allowed("feedback"),
            responses=responses(
                _KEY_PROBLEMS
                | _BODY_PROBLEMS
                | {
                    HTTPStatus.NOT_FOUND: "A request was never answered; nothing is accepted",
                    HTTPStatus.NOT_IMPLEMENTED: "This server keeps no log",
                    HTTPStatus.SERVICE_UNAVAILABLE: "The events cannot be kept safely now; send them again",
                }
            ),
        )
        async def feedback(request: Request) -> FeedbackResponse:
            """Say what people did with items they were shown: one event or a list, of which all are accepted or none.

            The answer comes when the events are safe on the disk.
            """
            with self._room():
                events, listed = parse_events(await self._body(request.scope, request.receive))
                async with self._deadline():
                    return await gateway.feedback(events, listed=listed)

        @app.get(
            "/v1/items/{item_id:path}",
            dependencies=self._allowed("recommend"),
            responses=responses(_KEY_PROBLEMS | _BUSY | {HTTPStatus.NOT_FOUND: "No such item"}),
        )
        async def item(item_id: str) -> ItemResponse:
            """What the model knows about an item."""
            async with self._bounded():
                found = await gateway.item(item_id)
            if found is None:
                raise ProblemError(HTTPStatus.NOT_FOUND, f"no item {item_id!r} in model {gateway.version}", "item_id")
            return ItemResponse.model_validate(found)

        @app.get("/v1/models", dependencies=self._allowed("admin"), responses=responses(_KEY_PROBLEMS | _BUSY))
        async def models() -> ModelsResponse:
            """The published models, and which of them answers."""
            async with self._deadline():
                return await self._registry.do(gateway.models)

        @app.get(
            "/metrics",
            dependencies=self._allowed("admin"),
            response_class=PlainTextResponse,
            responses=responses(_KEY_PROBLEMS | _BUSY),
        )
        async def metrics() -> Response:
            """What all processes count and measure, in Prometheus' text format."""
            gateway.measure()
            async with self._deadline():
                text = await self._files.do(self._metrics.read, self._metrics.own.to_json())
            return Response(text, media_type="text/plain; version=0.0.4")

        @app.get("/health/live", response_model_exclude_none=True)
        async def live() -> HealthResponse:
            """The process runs."""
            return HealthResponse(status="live")

        @app.get(
            "/health/ready",
            response_model_exclude_none=True,
            responses=responses({HTTPStatus.SERVICE_UNAVAILABLE: "A stage does not answer"}),
        )
        async def ready() -> HealthResponse:
            """Every stage answers that is needed; `degraded` names those that fail and are done without."""
            try:
                async with self._deadline() as budget:
                    degraded = await gateway.check(budget)
                if self._guard is not None and self._guard.locked:
                    degraded.append("keys")
            except Exception as error:
                _LOG.exception("not ready")
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "a stage does not answer; the log says why"
                ) from error
            refused = None if gateway.refused is None else gateway.refused.version or "CURRENT"
            return HealthResponse(status="ready", version=gateway.version, refused=refused, degraded=degraded or None)

        add_page(app, gateway, self._allowed("recommend"), self._bounded)
        return app


def _header(scope: Scope, wanted: str) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted.encode()), None)


def parse_request(body: bytes) -> RecommendRequest:
    """The request in a body.

    Raises: ProblemError: naming the first field that is wrong.
    """
    try:
        return RecommendRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error


def parse_events(body: bytes) -> tuple[list[FeedbackEvent], bool]:
    """The events in a body, and whether they are a list.

    Raises: ProblemError: naming the first field that is wrong.
    """
    try:
        if body.lstrip()[:1] == b"[":
            return _EVENTS.validate_json(body), True
        return [FeedbackEvent.model_validate_json(body)], False
    except ValidationError as error:
        raise invalid(error) from error


async def read_body(receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The body of a request, whose announced length plays no part.

    Raises: ProblemError: when it is longer than the limit, without reading the rest, or takes longer to arrive.
    """
    try:
        async with asyncio.timeout(timeout_s):
            message = await receive()
            body: bytes = message.get("body", b"")
            while message.get("more_body") and len(body) <= limit:
                message = await receive()
                body += message.get("body", b"")
    except TimeoutError as error:
        raise ProblemError(
            HTTPStatus.REQUEST_TIMEOUT, f"the body must arrive within {timeout_s:g} s", "body"
        ) from error
    if len(body) > limit:
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have {limit} bytes at most", "body")
    return body


def _body_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _events_schema() -> dict[str, Any]:
    one = FeedbackEvent.model_json_schema()
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}]}


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _answer(error)


def _answer(problem: ProblemError) -> Response:
    return Response(problem.body, problem.status, headers=problem.headers, media_type=PROBLEM_JSON)


async def _http_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = problem_body(HTTPStatus(error.status_code), str(error.detail))
    return Response(body, error.status_code, headers=error.headers, media_type=PROBLEM_JSON)


async def _server_problem(_request: Request, _error: Exception) -> Response:
    body = problem_body(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
    return Response(body, HTTPStatus.INTERNAL_SERVER_ERROR, media_type=PROBLEM_JSON)
