"""The graph: hydrate, retrieve, filter, rank, select; the same for stages of this process and for remote ones."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import pairwise
from time import perf_counter
from typing import Any, Final, ParamSpec, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from rec.errors import DataError, ScoreError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.state import Candidates, UserStates
from serve.agent import AgentStage
from serve.arms import Arm, Arms
from serve.batches import Batches
from serve.budget import UNLIMITED, Breaker, Budget
from serve.config import BATCH_SIZE, PolicyConfig, ServeConfig
from serve.hydrate import HydrateStage
from serve.measured import Measured
from serve.metrics import Metrics
from serve.problems import ProblemError
from serve.ranker import RankerStage
from serve.registry_watch import Refused, RegistryWatch
from serve.request_log import Answered, RequestLog
from serve.retriever import RetrieverStage, without_excluded
from serve.schemas import (
    CandidateShown,
    FeedbackEvent,
    FeedbackResponse,
    ItemShown,
    Model,
    ModelsResponse,
    PageSetup,
    RecommendRequest,
    RecommendResponse,
    SessionReport,
    StageReport,
)
from serve.select import Selection, SelectStage
from serve.sessions import NOBODY, Session, Sessions
from serve.spool import new_id

STAGES: Final = ("hydrate", "retrieve", "filter", "rank", "select")
_LOG: Final = logging.getLogger(__name__)

# What an answer can do without.
RANKER: Final = "ranker"
LOG: Final = "log"
TABLES: Final = "tables"
SESSIONS: Final = "sessions"

Given = ParamSpec("Given")
Result = TypeVar("Result")


@final
@dataclass(frozen=True, slots=True)
class Stages:
    """The stages as the gateway calls them, wherever they run; `choose` stands for retrieve and rank where it is.

    `unranked` has the scores of retrieval, for when `rank` fails.
    """

    hydrate: Callable[
        [Sequence[str], Sequence[Sequence[str]], Sequence[Session], Sequence[Mapping[str, JsonValue]]],
        Awaitable[UserStates],
    ]
    item: Callable[[str], Awaitable[dict[str, Any] | None]]
    users: Callable[[], Awaitable[list[str]]]
    names: Callable[[NDArray[np.int32]], Awaitable[list[tuple[str, str | None]]]]
    retrieve: Callable[[UserStates, int], Awaitable[Candidates]]
    rank: Callable[[UserStates, Candidates], Awaitable[NDArray[np.float64]]]
    unranked: Callable[[Candidates], Awaitable[NDArray[np.float64]]]
    select: Callable[[UserStates, Candidates, NDArray[np.float64], int, PolicyConfig], Awaitable[list[Selection]]]
    choose: Callable[[Mapping[str, JsonValue]], Awaitable[Candidates]] | None = None

    @classmethod
    def here(cls, recommender: Recommender, config: ServeConfig) -> Self:
        """All stages in this process, on one loaded bundle."""
        hydrate, retriever = HydrateStage(recommender), RetrieverStage(recommender)
        return cls(
            hydrate=_awaitable(hydrate),
            item=_awaitable(hydrate.item),
            users=_awaitable(hydrate.users),
            names=_awaitable(hydrate.names),
            retrieve=_awaitable(retriever),
            rank=_awaitable(RankerStage(recommender)),
            unranked=_awaitable(retriever.unranked),
            select=_awaitable(SelectStage(recommender, np.random.SeedSequence(config.seed), logged=config.log.enabled)),
            choose=_awaitable(AgentStage(recommender)) if config.agent else None,
        )


Rank = Callable[[Stages, UserStates, Candidates], Awaitable[NDArray[np.float64]]]


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What stages are asked for one request."""

    request: RecommendRequest
    arm: Arm
    session: Session
    budget: Budget


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """What they made of it: `retrieved`, `candidates` and `scores` are of this user alone, and so is the slate.

    `ends` is when each stage was done, for all who were answered together.
    """

    user_known: bool
    retrieved: Candidates
    candidates: Candidates
    scores: NDArray[np.float64]
    degraded: bool
    selection: Selection
    ends: tuple[float, ...]


@final
class Gateway:
    """Answers requests by sending them through the stages; what it has to remember is in the log and in sessions."""

    def __init__(
        self,
        arms: Arms,
        registry: Registry,
        log: RequestLog | None = None,
        watch: RegistryWatch | None = None,
        sessions: Sessions | None = None,
        metrics: Metrics | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._metrics = Metrics() if metrics is None else metrics
        self._measured = Measured(self._metrics)
        self._arms = arms
        self._registry = registry
        self._log = log
        self._watch = watch
        self._sessions = sessions
        self._n_unranked = 0
        self._batches = Batches(self._draw, batch_size)
        self._breakers: dict[str, Breaker] = {}

    @property
    def version(self) -> str:
        """Of the model that answers the users of no other arm."""
        return self._arms.champion.version

    @property
    def refused(self) -> Refused | None:
        """What CURRENT names in vain."""
        return None if self._watch is None else self._watch.refused

    async def recommend(
        self, request: RecommendRequest, key: str | None = None, budget: Budget = UNLIMITED, owner: str = ""
    ) -> RecommendResponse:
        """A slate for one user, drawn anew at every call, or at the first call of an idempotency key.

        Without the ranker, where that fails or takes longer than it may, the order is that of retrieval.

        Args: owner: whose idempotency key it is.
        Raises: ProblemError: as `RequestLog.once`. Without a log nothing is remembered, and a key changes nothing.
        """
        if self._log is None:
            return (await self._answer(request, budget)).response
        return await self._log.once(request, key, lambda: self._answer(request, budget), owner)

    async def feedback(self, events: Sequence[FeedbackEvent], *, listed: bool) -> FeedbackResponse:
        """Takes feedback; see `RequestLog.feedback`.

        Raises: ProblemError: also where there is no log.
        """
        if self._log is None:
            raise ProblemError(HTTPStatus.NOT_IMPLEMENTED, "this server keeps no log: start it with log.enabled")
        response, acts = await self._log.feedback(events, listed=listed)
        if self._sessions is not None:
            await self._sessions.add(acts)
        self._metrics.add("tandem_feedback_total", "accepted", amount=response.accepted)
        self._metrics.add("tandem_feedback_total", "duplicate", amount=response.duplicates)
        return response

    async def _answer(self, request: RecommendRequest, budget: Budget) -> Answered:
        # One look: whatever is switched meanwhile, all stages are of one version.
        arm = self._arms.of(request.user_id)
        started = perf_counter()
        session = Session() if self._sessions is None else await self._sessions.session(request.user_id)
        asked = Asked(request, arm, session, budget)
        if arm.stages.choose is not None or request.user_features:  # may be refused, and nobody else with it
            (drawn,) = await self._draw([asked])
        else:
            drawn = await self._batches.of((arm.name, arm.version, request.n), asked)
        selection, clock = drawn.selection, (started, *drawn.ends)
        response = RecommendResponse(
            request_id=new_id(),
            policy_version=selection.version,
            degraded=drawn.degraded,
            user_known=drawn.user_known,
            short=selection.short,
            items=[
                ItemShown(
                    item_id=item.item_id,
                    position=item.position,
                    score=item.score,
                    propensity=item.propensity,
                    source=item.source,
                    title=item.title,
                )
                for item in selection.items
            ],
            stages=_reports(clock, drawn) if request.explain else None,
            sources={item.item_id: list(item.sources) for item in selection.items} if request.explain else None,
            candidates=await _considered(arm.stages, drawn.candidates, drawn.scores) if request.explain else None,
            session=SessionReport(recent=session.item_ids, counts=session.counts) if request.explain else None,
        )
        answered = Answered(response, selection, arm, session)
        took = (end - start for start, end in pairwise(clock))
        self._measured.recommendation(answered, dict(zip(STAGES, took, strict=True)))
        return answered

    async def _draw(self, asked: Sequence[Asked]) -> list[Drawn]:
        """The slates of requests for as many items, by the same arm; each is drawn by itself.

        Raises: ProblemError: for features of a user that the model does not read; asked alone, where there are any.
        """
        requests, stages = [each.request for each in asked], asked[0].arm.stages
        try:
            states = await stages.hydrate(
                [request.user_id for request in requests],
                [request.exclude for request in requests],
                [each.session for each in asked],
                [request.user_features for request in requests],
            )
        except DataError as error:
            raise _no_features(error) from error
        hydrated = perf_counter()
        drawn: dict[int, Drawn] = {}
        # Those of whom nothing is known are answered from another source, and so apart.
        for rows in (np.flatnonzero(~states.nothing_known), np.flatnonzero(states.nothing_known)):
            if len(rows):
                own = states if len(rows) == len(states) else states.taken(rows)
                slates = await self._slates([asked[row] for row in rows.tolist()], own, hydrated)
                drawn.update(zip(rows.tolist(), slates, strict=True))
        return [drawn[row] for row in range(len(asked))]

    async def _slates(self, asked: Sequence[Asked], states: UserStates, hydrated: float) -> list[Drawn]:
        request, arm = asked[0].request, asked[0].arm
        stages, choose = arm.stages, arm.stages.choose
        ends = [hydrated]
        retrieved = await (stages.retrieve(states, request.n) if choose is None else choose(request.context))
        ends.append(perf_counter())
        candidates = without_excluded(retrieved, states)
        ends.append(perf_counter())
        # Who has less time left gives up alone.
        budget = max((each.budget for each in asked), key=lambda budget: budget.ends_at)
        scores, degraded = (candidates.scores, False) if choose else await self._ranked(arm, states, candidates, budget)
        ends.append(perf_counter())
        selections = await stages.select(states, candidates, scores, request.n, arm.policy)
        ends.append(perf_counter())
        return [
            Drawn(
                user_known=bool(states.user[row] >= 0),
                retrieved=retrieved.of(row),
                candidates=candidates.of(row),
                scores=scores[row],
                degraded=degraded,
                selection=selection,
                ends=tuple(ends),
            )
            for row, selection in enumerate(selections)
        ]

    async def _ranked(
        self, arm: Arm, states: UserStates, candidates: Candidates, budget: Budget
    ) -> tuple[NDArray[np.float64], bool]:
        """Scores of the candidates, (B, M), and whether they are those of retrieval, for want of the ranker's."""
        stages, clock = arm.stages, asyncio.get_running_loop()
        if states.nothing_known.all():  # what is popular has no other order
            return await stages.unranked(candidates), False
        breaker, now = self._breakers.setdefault(arm.name, Breaker()), clock.time()
        if not breaker.asks(now):
            return await stages.unranked(candidates), True
        try:
            async with asyncio.timeout_at(budget.rank_until(now)):
                scores = await ranked(stages, states, candidates)
            breaker.succeeded()
            return scores, False
        except Exception as error:
            if not isinstance(error, TimeoutError) or budget.rank_until(now) >= now + budget.rank_s:
                breaker.failed(clock.time())
            before, self._n_unranked = self._n_unranked, self._n_unranked + len(states)
            if self._n_unranked.bit_length() > before.bit_length():  # ever more seldom
                _LOG.warning("%d requests are answered without the ranker: %r", self._n_unranked, error)
        return await stages.unranked(candidates), True

    def measure(self) -> None:
        """Says what is now, beside what is counted."""
        metrics, refused = self._metrics, self.refused
        metrics.drop("tandem_model_info")
        for arm in self._arms.all():
            metrics.set("tandem_model_info", arm.name, arm.version, value=1)
        metrics.set("tandem_model_refused", value=float(refused is not None))
        if self._watch is not None:
            metrics.set("tandem_model_swaps_total", value=self._watch.n_swaps)
        if self._log is not None:
            metrics.set("tandem_unlogged_total", value=self._log.n_unlogged)
            metrics.set("tandem_unkept_keys_total", value=self._log.n_unkept_keys)
            metrics.set("tandem_spool_bytes", value=self._log.spool_bytes())
            metrics.set("tandem_key_bytes", value=self._log.key_bytes())

    async def page_setup(self) -> PageSetup:
        """What the page offers; no action where feedback is not taken."""
        users = await self._arms.champion.stages.users()
        return PageSetup(users=users, actions=[] if self._log is None else self._log.offered)

    async def item(self, item_id: str) -> dict[str, Any] | None:
        """What is known about an item, None for one that is not in the catalogue."""
        return await self._arms.champion.stages.item(item_id)

    async def check(self, budget: Budget = UNLIMITED) -> list[str]:
        """Sends a request of nobody through all stages of every arm; raises what those raise that are needed.

        Returns: what fails and is done without: `ranker`, `log`, `tables`, `sessions`.
        Raises: OSError: when the log fails and is not to be done without.
        """
        unranked = []

        async def rank(stages: Stages, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
            try:
                async with asyncio.timeout_at(budget.rank_until(asyncio.get_running_loop().time())):
                    scores = await ranked(stages, states, candidates)
                unranked.append(False)
            except Exception:
                unranked.append(True)
                scores = await stages.unranked(candidates)
            return scores

        for arm in self._arms.all():
            await check(arm.stages, arm.policy, rank)
        logged = self._log is None or await self._log.check()
        followed = self._log is None or await asyncio.to_thread(self._log.is_followed)
        remembered = self._sessions is None or await self._sessions.check()
        fails = {RANKER: any(unranked), LOG: not logged, TABLES: not followed, SESSIONS: not remembered}
        return [name for name, failing in fails.items() if failing]

    def models(self) -> ModelsResponse:
        """The versions that answer, and all that are published; reads the registry."""
        arms = {arm.name: arm.version for arm in self._arms.all()}
        return ModelsResponse(
            serving=self.version,
            arms=arms,
            refused=None if self.refused is None else self.refused.reason,
            models=[
                Model(
                    version=entry.version,
                    is_current=entry.is_current,
                    is_serving=entry.version in arms.values(),
                    metrics=None if entry.manifest is None else dict(entry.manifest.metrics),
                    problem=entry.problem,
                )
                for entry in self._registry.entries()
            ],
        )


async def ranked(stages: Stages, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
    """The ranker's scores of candidates, (B, M).

    Raises: ScoreError: when one is no finite number. Whatever the ranker raises.
    """
    scores = await stages.rank(states, candidates)
    if not np.isfinite(scores[candidates.items >= 0]).all():
        raise ScoreError("the ranker's scores must be finite")
    return scores


async def check(stages: Stages, policy: PolicyConfig, rank: Rank = ranked) -> None:
    """Sends a request of nobody through stages; raises whatever they raise.

    Nobody gets what is popular; the models themselves have answered golden queries when the bundle was loaded. Where an
    agent chooses, a request would bring its candidates, and this one has none.
    """
    states = await stages.hydrate([NOBODY], [[]], [Session()], [{}])
    if stages.choose is None:
        candidates = await stages.retrieve(states, 1)
        scores = await rank(stages, states, candidates)
    else:
        candidates = Candidates(np.zeros((1, 0), np.int32), np.zeros((1, 0)), NOBODY)
        scores = candidates.scores
    await stages.select(states, candidates, scores, 1, policy)


def _no_features(error: DataError) -> ProblemError:
    field = "user_features" if error.column is None else f"user_features.{error.column}"
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {error.message}", field)


def _awaitable(stage: Callable[Given, Result]) -> Callable[Given, Awaitable[Result]]:
    async def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return stage(*args, **kwargs)

    return call


async def _considered(stages: Stages, candidates: Candidates, scores: NDArray[np.float64]) -> list[CandidateShown]:
    (columns,) = np.nonzero(candidates.items[0] >= 0)
    columns = columns[np.argsort(-scores[columns], kind="stable")]
    names = await stages.names(candidates.items[0, columns])
    return [
        CandidateShown(
            item_id=item_id,
            title=title,
            retrieval_score=float(candidates.scores[0, column]),
            score=float(scores[column]),
            sources=list(candidates.sources_of(0, column)),
        )
        for column, (item_id, title) in zip(columns.tolist(), names, strict=True)
    ]


def _reports(clock: Sequence[float], drawn: Drawn) -> list[StageReport]:
    selection = drawn.selection
    n_retrieved = int((drawn.retrieved.items >= 0).sum())
    n_candidates = int((drawn.candidates.items >= 0).sum())
    sizes = (
        (1, 1),
        (selection.n_eligible, n_retrieved),
        (n_retrieved, n_candidates),
        (n_candidates, n_candidates),
        (n_candidates, len(selection.items)),
    )
    return [
        StageReport(name=name, ms=(end - start) * 1000, n_in=n_in, n_out=n_out)
        for name, (n_in, n_out), (start, end) in zip(STAGES, sizes, pairwise(clock), strict=True)
    ]
