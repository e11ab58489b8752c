"""The graph: hydrate, retrieve, filter, rank, select; the same for stages of this process and for remote ones."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rec.registry import Registry
from rec.state import Candidates, UserStates
from serve.answer import answer_to
from serve.arms import Arms
from serve.budget import UNLIMITED, Budget
from serve.config import BATCH_SIZE
from serve.measured import Measured
from serve.metrics import Metrics
from serve.problems import ProblemError
from serve.registry_watch import Refused, RegistryWatch
from serve.request_log import Answered, RequestLog
from serve.schemas import (
    FeedbackEvent,
    FeedbackResponse,
    Model,
    ModelsResponse,
    PageSetup,
    RecommendRequest,
    RecommendResponse,
)
from serve.sessions import Session, Sessions
from serve.slates import Asked, Slates
from serve.stages import STAGES, Stages, check, ranked

# What an answer can do without.
RANKER: Final = "ranker"
LOG: Final = "log"
TABLES: Final = "tables"
SESSIONS: Final = "sessions"


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
        self._slates = Slates(batch_size)

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
        arm, started = self._arms.of(request.user_id), perf_counter()
        session = Session() if self._sessions is None else await self._sessions.session(request.user_id)
        asked = Asked(request, arm, session, budget, started)
        drawn = await self._slates.of(asked)
        answered = Answered(await answer_to(asked, drawn), drawn.selection, arm, session)
        self._measured.recommendation(answered, dict(zip(STAGES, drawn.seconds, strict=True)))
        return answered

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
        unranked = False

        async def rank(stages: Stages, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
            nonlocal unranked
            try:
                return await ranked(stages, states, candidates, budget)
            except Exception:
                unranked = True
                return await stages.unranked(candidates)

        for arm in self._arms.all():
            await check(arm.stages, arm.policy, rank)
        logged = self._log is None or await self._log.check()
        followed = self._log is None or await asyncio.to_thread(self._log.is_followed)
        remembered = self._sessions is None or await self._sessions.check()
        fails = {RANKER: unranked, LOG: not logged, TABLES: not followed, SESSIONS: not remembered}
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
