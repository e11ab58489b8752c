"""What goes over HTTP: requests are strict about names and types, answers are what the documentation shows."""

import json
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from rec.data.event_rows import RESERVED
from rec.schema import MAX_ID_LENGTH

MAX_ITEMS: Final = 100
MAX_EXCLUDED: Final = 1_000
MAX_EVENTS: Final = 1_000
MAX_ACTION_LENGTH: Final = 64


def _finite(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(context, allow_nan=False)
    return context


def _unreserved(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in context:
        if name.startswith(RESERVED):
            raise ValueError(f"names that begin with {RESERVED!r} are the log's own; take another than {name!r}")
    return context


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character NUL")
    return text


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH), AfterValidator(_without_nul)]


class RecommendRequest(BaseModel):
    """Who asks for how many items, and what must not be among them.

    Items the user has seen are left out anyway. `user_features` are those of a user the model has no row for, by their
    names in the users table; of others they change nothing. `context` and `session_id` describe the moment; they are
    logged, and only an agent reads the context: docs/agents.md. `explain` adds what each stage did and how long it
    took, and all sources of each item.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra={"examples": [{"user_id": "17", "n": 5}]}
    )

    user_id: Id
    n: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = 10
    exclude: Annotated[tuple[Id, ...], Field(max_length=MAX_EXCLUDED)] = ()
    user_features: Annotated[dict[str, JsonValue], AfterValidator(_finite)] = {}
    context: Annotated[dict[str, JsonValue], AfterValidator(_finite), AfterValidator(_unreserved)] = {}
    session_id: Id | None = None
    explain: bool = False


class ItemShown(BaseModel):
    """One item of a slate.

    `propensity` is the probability of the item at its position, given the items above it. `source` is what found it,
    `explore` for one drawn from outside the candidates, which has no `score`.
    """

    item_id: str
    position: int
    score: float | None
    propensity: float
    source: str
    title: str | None = None


class CandidateShown(BaseModel):
    """One candidate of an explained answer: what found it, its score there, and that of the ranker."""

    item_id: str
    title: str | None
    retrieval_score: float
    score: float
    sources: list[str]


class StageReport(BaseModel):
    """What one stage was given and gave, in items (users for hydrate), and how long it took."""

    name: str
    ms: float
    n_in: int
    n_out: int


class SessionReport(BaseModel):
    """What is remembered of the user since the model was trained: items, oldest first, and how many of each action."""

    recent: list[str]
    counts: dict[str, int]


class RecommendResponse(BaseModel):
    """A slate, top first.

    `user_known` is false for a user the model has never seen, `short` is true when fewer items were left than asked
    for, `degraded` when the ranker failed or was late, and the scores are those of retrieval. An explained answer has
    `stages`, as `sources` all that found each item, of which its `source` is the first, all `candidates`, best first,
    and the `session` it was answered with.
    """

    request_id: str
    policy_version: str
    degraded: bool
    user_known: bool
    short: bool
    items: list[ItemShown]
    stages: list[StageReport] | None = None
    sources: dict[str, list[str]] | None = None
    candidates: list[CandidateShown] | None = None
    session: SessionReport | None = None


class FeedbackEvent(BaseModel):
    """What somebody did with an item that an answer held.

    `event_id` is yours: the same event of a request, sent again, counts once; without one, each sending is an event.
    `timestamp` is when it happened, UTC milliseconds, by default when it arrives. The latest event on an item decides.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={"examples": [{"request_id": "0199…", "item_id": "260", "action": "watched"}]},
    )

    request_id: Id
    item_id: Id
    action: Annotated[str, Field(min_length=1, max_length=MAX_ACTION_LENGTH), AfterValidator(_without_nul)]
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    event_id: Id | None = None
    timestamp: Annotated[int, Field(ge=10**11, lt=10**14)] | None = None


class FeedbackResponse(BaseModel):
    """How many events were new, and how many had been accepted before; all of them are safe on the disk."""

    accepted: int
    duplicates: int


class ItemResponse(BaseModel):
    """What the model knows about an item: its features by name."""

    item_id: str
    title: str | None
    features: dict[str, Any]


class PageSetup(BaseModel):
    """What the page offers to pick from: some users, and the actions that feedback may have."""

    users: list[str]
    actions: list[str]


class Model(BaseModel):
    """One published model; `problem` says why it cannot be read."""

    version: str
    is_current: bool
    is_serving: bool
    metrics: dict[str, Any] | None
    problem: str | None


class ModelsResponse(BaseModel):
    """The version that answers, those of all arms, and all that are published, oldest first.

    `refused` says why what CURRENT names does not answer.
    """

    serving: str
    arms: dict[str, str]
    refused: str | None
    models: list[Model]


class HealthResponse(BaseModel):
    """That the service lives, or is ready to answer with a version; `refused` is one that CURRENT names in vain.

    `degraded` names what fails and is done without meanwhile.
    """

    status: str
    version: str | None = None
    refused: str | None = None
    degraded: list[str] | None = None


class Problem(BaseModel):
    """An error (RFC 9457); `field` names the part of the request that is wrong."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None
