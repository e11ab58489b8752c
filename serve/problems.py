"""Errors as problem+json (RFC 9457): what is wrong, where, and nothing about the inside."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError

from serve.schemas import Problem

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
# Of what was sent, in the words about it.
_FIELD_LENGTH: Final = 200
_VALUE_LENGTH: Final = 80


class ProblemError(Exception):
    """A request that cannot be answered, with the status and the field that say why."""

    def __init__(
        self, status: HTTPStatus, detail: str, field: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's head says beside the type: when to try again, and how to say who one is."""
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> bytes:
        """The problem as JSON."""
        return problem_body(self.status, self.detail, self.field)


def problem_body(status: HTTPStatus, detail: str, field: str | None = None) -> bytes:
    """A problem as JSON; its type is the status, as RFC 9457 has it for `about:blank`."""
    problem = Problem(type="about:blank", title=status.phrase, status=status, detail=detail, field=field)
    return problem.model_dump_json().encode()


def unprocessable(field: str, detail: str) -> ProblemError:
    """The problem of a field that cannot be what it is."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {detail}", field)


def busy(detail: str) -> ProblemError:
    """The problem of a server that may be able to do it a little later."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)


def invalid(error: ValidationError) -> ProblemError:
    """The problem of a body that is no valid request: its first error, and how many more there are."""
    first, *others = error.errors(include_url=False, include_context=False)
    field = _cut(".".join(map(str, first["loc"])), _FIELD_LENGTH) or "body"
    found = "" if first["type"] in ("missing", "json_invalid") else f"; found {_shortened(first['input'])}"
    more = f" ({len(others)} more)" if others else ""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {first['msg']}{found}{more}", field)


def responses(described: Mapping[HTTPStatus, str]) -> dict[int | str, dict[str, object]]:
    """The problems a route may answer with, for its documentation."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        int(status): {"model": Problem, "description": text, "content": {PROBLEM_JSON: schema}}
        for status, text in described.items()
    }


def _shortened(value: object) -> str:
    return _cut(repr(value), _VALUE_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
