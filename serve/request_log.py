"""What a gateway keeps of the requests it answers, and the feedback it takes: between HTTP and the log."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, final

import numpy as np
from pydantic_core import to_json

from rec.data.event_rows import EXCLUDED, USER_FEATURES
from rec.data.events import EventTables
from rec.errors import ConfigError, DataError
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arm
from serve.claims import Claim, Claims
from serve.config import ServeConfig
from serve.event_log import EventLog, NotShownError, TooEarlyError, UnknownRequestError, now_ms
from serve.hands import Hands
from serve.logged import Row
from serve.problems import ProblemError, busy, unprocessable
from serve.schemas import FeedbackEvent, FeedbackResponse, RecommendRequest, RecommendResponse
from serve.select import Selection
from serve.sessions import Session, UserAct

# How far the clock of a client may be ahead.
AHEAD_MS: Final = 5 * 60 * 1000
KEY: Final = "idempotency-key"
MAX_KEY_LENGTH: Final = 255
USUAL_ACTIONS: Final = ("watched", "liked", "skipped")
SPOOL: Final = "spool"
# A request, and its impressions, as the tables have them.
Rows = tuple[dict[str, Any], list[dict[str, Any]]]
_LOG: Final = logging.getLogger(__name__)


class Answered(NamedTuple):
    """An answer, and what it was made of."""

    response: RecommendResponse
    selection: Selection
    arm: Arm
    session: Session


def spool_folder(config: ServeConfig) -> Path:
    """Where the log waits for the tables.

    Raises: ConfigError: for a home in an object store without a folder named.
    """
    if config.log.spool is not None:
        return Path(config.log.spool).expanduser().absolute()
    home = Home(config.home).folder
    if home is None:
        raise ConfigError(
            "the log of a home in an object store waits on a disk before it gets there: name a folder, or switch the "
            "log off with log.enabled",
            field="log.spool",
        )
    return home / SPOOL


def forget_keys(spool: Path, user_id: str) -> int:
    """Forgets the idempotency keys of a user's requests, which would log these anew; a retry is another request then.

    Returns: how many. Raises: as `Claims.forget`.
    """
    return Claims.forget(spool, lambda content: json.loads(content)["request"]["user_id"] == user_id)


@final
class RequestLog:
    """Logs requests, each once, and takes feedback on them."""

    def __init__(
        self, log: EventLog, claims: Claims, config: ServeConfig, actions: Collection[str] | None = None
    ) -> None:
        """Args: actions: that feedback may have; None: any."""
        self._log = log
        self._claims = claims
        self._config = config
        self._actions = actions
        self._rng = np.random.default_rng(config.seed)
        self.n_unlogged = 0
        self.n_unkept_keys = 0
        # What hangs in one of these keeps only those waiting who need the same.
        self._disk, self._tables = Hands("disk", n_threads=8, n_at_a_time=256), Hands("tables")
        self._health = Hands("disk's health", n_threads=1)

    @classmethod
    def open(cls, config: ServeConfig, versions: Collection[str]) -> Self:
        """The log of a config, for a server of these versions of the model."""
        folder = spool_folder(config)
        home = Home(config.home)
        log = EventLog(folder, EventTables(home), sync_s=config.log.sync_s, max_bytes=config.log.max_spool_bytes)
        opened = cls(log, Claims(folder, config.log.idempotency_s), config)
        opened.allow(opened.actions_of(versions))
        return opened

    def actions_of(self, versions: Collection[str]) -> list[str] | None:
        """The actions of the config, else those that models were trained with; None: any. Reads the registry.

        Raises: BundleError: when the storage does not answer, or does not have a version.
        """
        registry = Registry(Home(self._config.home))
        trained: list[Any] = [registry.show(version).config.get("data", {}) for version in versions]
        rewards = [self._config.rewards or data.get("rewards") for data in trained]
        return list(dict.fromkeys(action for each in rewards for action in each)) if all(rewards) else None

    def allow(self, actions: Collection[str] | None) -> None:
        """Takes feedback with these actions from now on; None: any."""
        self._actions = actions

    @property
    def offered(self) -> list[str]:
        """Actions that feedback may have, in the order of the rewards; some usual ones where any may be."""
        return list(USUAL_ACTIONS if self._actions is None else self._actions)

    async def once(
        self, request: RecommendRequest, key: str | None, answer: Callable[[], Awaitable[Answered]], owner: str = ""
    ) -> RecommendResponse:
        """The answer to a request, logged; of a key that was used before, the answer of that time.

        Args: owner: whose key it is; the same text is another key of another owner.
        Raises: ProblemError: for a key that was used with another request, and where nothing can be logged but has to.
        """
        if key is None:
            answered = await answer()
            await self._record(self._rows(request, answered), None)
            return answered.response
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise ProblemError(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"{KEY}: 1 to {MAX_KEY_LENGTH} characters are required", KEY
            )
        async with self._claimed(f"{owner}\0{key}") as claim:
            if claim is not None and claim.content is not None:
                return await self._again(request, claim, claim.content)
            answered = await answer()
            rows = self._rows(request, answered)
            if claim is not None:
                self._keep(claim, request, answered.response, rows)
            await self._record(rows, claim)
            return answered.response

    async def feedback(
        self, events: Sequence[FeedbackEvent], *, listed: bool
    ) -> tuple[FeedbackResponse, list[UserAct]]:
        """Takes events, all or none, and returns when they are safe.

        Args: listed: whether they came as a list, for the names of fields.
        Returns: the answer, and of every event who did what, of one that was accepted before as it was then: should the
            session have been lost since, it is found again, and nothing else comes into it.
        Raises: ProblemError: naming the first event and field that is wrong; when the log cannot take them now.
        """
        received_at = now_ms()
        rows = []
        for place, event in enumerate(events):
            prefix = f"{place}." if listed else ""
            if self._actions is not None and event.action not in self._actions:
                known = ", ".join(sorted(self._actions))
                raise unprocessable(f"{prefix}action", f"one of {known} is required; found {event.action[:80]!r}")
            if event.timestamp is not None and event.timestamp > received_at + AHEAD_MS:
                raise unprocessable(
                    f"{prefix}timestamp", f"more than 5 minutes ahead; it is {received_at}, found {event.timestamp}"
                )
            timestamp = received_at if event.timestamp is None else event.timestamp
            rows.append({**event.model_dump(), "timestamp": timestamp, "received_at": received_at})
        try:
            await self._look_up({event.request_id for event in events})
            result = await self._disk.do(self._log.accept, rows)
        except UnknownRequestError as error:
            field = f"{error.place}.request_id" if listed else "request_id"
            raise ProblemError(HTTPStatus.NOT_FOUND, f"{field}: no such request was answered", field) from error
        except NotShownError as error:
            field = f"{error.place}.item_id" if listed else "item_id"
            raise unprocessable(field, "the answer to this request did not hold this item") from error
        except TooEarlyError as error:
            field = f"{error.place}.timestamp" if listed else "timestamp"
            raise unprocessable(field, f"more than 5 minutes before the request; {error}") from error
        except (OSError, DataError) as error:
            _LOG.exception("feedback was not accepted")
            raise busy("feedback cannot be kept safely now; send it again") from error
        return FeedbackResponse(accepted=result.accepted, duplicates=result.duplicates), list(result.acts)

    async def check(self) -> bool:
        """Whether answers and feedback can be logged now.

        Raises: OSError: when they cannot, and no answer may go out that is not logged.
        """
        try:
            await self._health.do(self._log.check)
        except OSError:
            if self._config.log.when_full == "refuse":
                raise
            return False
        return True

    def is_followed(self) -> bool:
        """Whether the tables take what is logged."""
        return self._log.is_followed()

    def spool_bytes(self) -> int:
        """What waits for the tables, and what is there for those who look for a request."""
        return self._log.spool_bytes

    def key_bytes(self) -> int:
        """What the idempotency keys take on the disk."""
        return self._log.key_bytes

    def close(self) -> None:
        """Brings all to the disk."""
        self._log.close()

    @asynccontextmanager
    async def _claimed(self, key: str) -> AsyncIterator[Claim | None]:
        """Holds a key; None where it cannot be remembered, and the request is answered all the same.

        Raises: ProblemError: while another request of the key is being answered, and where none may go unremembered.
        """
        async with AsyncExitStack() as held:
            claim = None
            try:
                full = self._log.key_bytes > self._config.log.max_key_bytes
                claim = await held.enter_async_context(self._claims.claim(key, full=full))
            except TimeoutError as error:
                raise busy(f"{KEY}: {error}") from error
            except OSError as error:
                self._unkept(error)
            yield claim

    async def _look_up(self, request_ids: Collection[str]) -> None:
        """Asks the tables about requests where only they can tell; whoever they do not concern waits for nobody."""
        unknown = await self._disk.do(self._log.unknown, list(request_ids))
        if unknown:
            await self._tables.do(self._log.look_up, unknown)

    def _keep(self, claim: Claim, request: RecommendRequest, response: RecommendResponse, rows: Rows) -> None:
        try:
            claim.keep(to_json({"request": request.model_dump(), "answer": response.model_dump(), "rows": rows}))
        except OSError as error:
            self._unkept(error)

    def _unkept(self, error: OSError) -> None:
        self.n_unkept_keys += 1
        self._do_without(f"{KEY}: the key cannot be kept now", error, self.n_unkept_keys, "keys could not be kept")

    async def _again(self, request: RecommendRequest, claim: Claim, content: bytes) -> RecommendResponse:
        kept = json.loads(content)
        if kept["request"] != json.loads(to_json(request.model_dump())):
            raise unprocessable(KEY, "this key was used with another request; take a new one")
        try:
            await self._look_up([kept["answer"]["request_id"]])
            await self._recorded(claim, self._log.answered_again, kept["rows"])
        except (OSError, DataError) as error:
            self._unlogged(error)
        return RecommendResponse.model_validate(kept["answer"])

    async def _record(self, rows: Rows, claim: Claim | None) -> None:
        try:
            if self._config.log.sync_s:
                self._log.answered(*rows)
            else:  # the disk is waited for, and nobody else meanwhile
                await self._recorded(claim, self._log.answered, rows)
        except (OSError, ProblemError) as error:
            self._unlogged(error)

    async def _recorded(self, claim: Claim | None, record: Callable[[Row, Sequence[Row]], None], rows: Rows) -> None:
        """Has a thread record an answer, whose key is held until that is done, though whoever waits gives up.

        Raises: as `record`. ProblemError: 503, when the disk has too much to do.
        """
        recording = self._disk.begin(record, *rows)
        if claim is not None:
            claim.hold_until(recording)
        await asyncio.wrap_future(recording)

    def _unlogged(self, error: Exception) -> None:
        self.n_unlogged += 1
        self._do_without("the answer cannot be logged now", error, self.n_unlogged, "answers could not be logged")

    def _do_without(self, lacking: str, error: Exception, n: int, happened: str) -> None:
        """Goes on without what an answer should have had, for the n-th time.

        Raises: ProblemError: where no answer may go out without it.
        """
        if n & (n - 1) == 0:  # ever more seldom
            _LOG.error("%d %s: %s", n, happened, error)
        if self._config.log.when_full == "refuse":
            raise busy(f"{lacking}; send the request again") from error

    def _rows(self, request: RecommendRequest, answered: Answered) -> Rows:
        """The request and its impressions as the tables have them."""
        response, selection, arm, session = answered
        considered = selection.considered
        assert considered is not None, "the select stage has to know that its slates are logged"
        excluded = [*request.exclude, *session.item_ids]
        told = {} if response.user_known else request.user_features
        own = {name: value for name, value in ((EXCLUDED, excluded), (USER_FEATURES, told)) if value}
        row = {
            "request_id": response.request_id,
            "timestamp": now_ms(),
            "user_id": request.user_id,
            "session_id": request.session_id,
            "policy_version": selection.version,
            "retriever_version": selection.version,
            "arm": arm.name,
            "epsilon": arm.policy.epsilon,
            "temperature": arm.policy.temperature,
            "k": request.n,
            "degraded": response.degraded,
            "context": to_json(request.context | own).decode(),
            "history": considered.history,
        }
        if self._rng.random() < self._config.log.candidate_share:
            row |= {
                "candidates": considered.candidates,
                "candidate_scores": considered.scores,
                "candidate_sources": considered.sources,
            }
        impressions = [
            {
                "request_id": response.request_id,
                "position": item.position,
                "item_id": item.item_id,
                "source": item.source,
                "propensity": item.propensity,
                "n_eligible": item.n_eligible,
            }
            for item in selection.items
        ]
        return row, impressions
