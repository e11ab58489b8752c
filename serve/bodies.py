"""The bodies of requests: read within bounds, parsed, and as the documentation describes them."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from starlette.types import Receive

from serve.problems import ProblemError, invalid
from serve.schemas import MAX_EVENTS, FeedbackEvent, RecommendRequest

_EVENTS: Final = TypeAdapter(Annotated[list[FeedbackEvent], Field(min_length=1, max_length=MAX_EVENTS)])


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


def documented(schema: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON as OpenAPI describes it."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def events_schema() -> dict[str, Any]:
    """One event of feedback, or a list."""
    one = FeedbackEvent.model_json_schema()
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_EVENTS}]}
