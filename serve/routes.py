"""What FastAPI answers and documents."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope

from rec import __version__
from serve.admission import BEARER, Admission
from serve.bodies import documented, events_schema, parse_events
from serve.gateway import Gateway
from serve.hands import Hands
from serve.metrics import SharedMetrics
from serve.page import add_page
from serve.problems import PROBLEM_JSON, ProblemError, problem_body, responses
from serve.request_log import MAX_KEY_LENGTH
from serve.schemas import (
    FeedbackResponse,
    HealthResponse,
    ItemResponse,
    ModelsResponse,
    RecommendRequest,
    RecommendResponse,
)

RECOMMEND: Final = "/v1/recommend"
FAILED: Final = "the server failed; its log says why"
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
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}
_LOG: Final = logging.getLogger(__name__)

# Status, content type, body and further headers of an answer.
Answer = tuple[int, bytes, bytes, dict[str, str]]


def routes(
    gateway: Gateway,
    admission: Admission,
    shared: SharedMetrics,
    recommended: Callable[[Scope, Receive], Awaitable[Answer]],
) -> FastAPI:
    """The application of all routes.

    Args: shared: the numbers of all processes. recommended: answers a recommendation, gates included.
    """
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
    registry, files = Hands("registry", n_threads=2), Hands("metrics", n_threads=1)

    @app.post(
        RECOMMEND,
        response_model=RecommendResponse,
        openapi_extra={"requestBody": documented(RecommendRequest.model_json_schema()), "parameters": [_KEY]},
        dependencies=[Depends(BEARER)],
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
        status, content_type, body, more = await recommended(request.scope, request.receive)
        return Response(body, status, headers=more, media_type=content_type.decode())

    @app.post(
        "/v1/feedback",
        status_code=HTTPStatus.ACCEPTED,
        openapi_extra={"requestBody": documented(events_schema())},
        dependencies=admission.allowed("feedback"),
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
        with admission.room():
            events, listed = parse_events(await admission.body(request.scope, request.receive))
            async with admission.deadline():
                return await gateway.feedback(events, listed=listed)

    @app.get(
        "/v1/items/{item_id:path}",
        dependencies=admission.allowed("recommend"),
        responses=responses(_KEY_PROBLEMS | _BUSY | {HTTPStatus.NOT_FOUND: "No such item"}),
    )
    async def item(item_id: str) -> ItemResponse:
        """What the model knows about an item."""
        async with admission.bounded():
            found = await gateway.item(item_id)
        if found is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"no item {item_id!r} in model {gateway.version}", "item_id")
        return ItemResponse.model_validate(found)

    @app.get("/v1/models", dependencies=admission.allowed("admin"), responses=responses(_KEY_PROBLEMS | _BUSY))
    async def models() -> ModelsResponse:
        """The published models, and which of them answers."""
        async with admission.deadline():
            return await registry.do(gateway.models)

    @app.get(
        "/metrics",
        dependencies=admission.allowed("admin"),
        response_class=PlainTextResponse,
        responses=responses(_KEY_PROBLEMS | _BUSY),
    )
    async def metrics() -> Response:
        """What all processes count and measure, in Prometheus' text format."""
        gateway.measure()
        async with admission.deadline():
            text = await files.do(shared.read, shared.own.to_json())
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
            async with admission.deadline() as budget:
                degraded = await gateway.check(budget)
            if admission.guard is not None and admission.guard.locked:
                degraded.append("keys")
        except Exception as error:
            _LOG.exception("not ready")
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "a stage does not answer; the log says why") from error
        refused = None if gateway.refused is None else gateway.refused.version or "CURRENT"
        return HealthResponse(status="ready", version=gateway.version, refused=refused, degraded=degraded or None)

    add_page(app, gateway, admission.allowed("recommend"), admission.bounded)
    return app


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error)


def problem_response(problem: ProblemError) -> Response:
    """The answer that a problem is."""
    return Response(problem.body, problem.status, headers=problem.headers, media_type=PROBLEM_JSON)


async def _http_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = problem_body(HTTPStatus(error.status_code), str(error.detail))
    return Response(body, error.status_code, headers=error.headers, media_type=PROBLEM_JSON)


async def _server_problem(_request: Request, _error: Exception) -> Response:
    body = problem_body(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)
    return Response(body, HTTPStatus.INTERNAL_SERVER_ERROR, media_type=PROBLEM_JSON)
