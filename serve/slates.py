"""Slates drawn by sending requests through the stages, those that wait together at once."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import pairwise
from time import perf_counter
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError, ScoreError
from rec.state import Candidates, UserStates
from serve.arms import Arm
from serve.batches import Batches, Part
from serve.budget import Breaker, Budget
from serve.problems import ProblemError
from serve.retriever import without_excluded
from serve.schemas import RecommendRequest
from serve.select import Selection
from serve.sessions import Session
from serve.stages import NOT_FINITE, scored

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """What stages are asked for one request, which began at `started`, in seconds of `perf_counter`."""

    request: RecommendRequest
    arm: Arm
    session: Session
    budget: Budget
    started: float


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """What they made of it: `retrieved`, `candidates` and `scores` are of this user alone, and so is the slate.

    `seconds` is how long each of `STAGES` took for those who were answered together, the first from when the request
    began.
    """

    user_known: bool
    retrieved: Candidates
    candidates: Candidates
    scores: NDArray[np.float64]
    degraded: bool
    selection: Selection
    seconds: tuple[float, ...]


@final
class Slates:
    """Draws slates; belongs to one event loop."""

    def __init__(self, batch_size: int) -> None:
        """Args: batch_size: requests that go through the stages together, at most."""
        self._batches = Batches(self._hydrated, batch_size)
        self._breakers: dict[str, Breaker] = {}
        self._n_unranked = 0

    async def of(self, asked: Asked) -> Drawn:
        """The slate of one request, drawn by itself whatever waits with it for the same arm and as many items.

        Without the ranker, where that fails or takes longer than it may, the order is that of retrieval.

        Raises: ProblemError: for features of a user that the model does not read. What stages raise.
        """
        request, arm = asked.request, asked.arm
        alone = arm.stages.choose is not None or request.user_features  # may be refused, and nobody else with it
        return await self._batches.of(object() if alone else (arm.name, arm.version, request.n), asked)

    async def _hydrated(self, asked: Sequence[Asked]) -> list[Part[Drawn]]:
        """Requests for as many items, by the same arm, divided by where their items come from; and their slates.

        Those of whom nothing is known are answered from another source, and so beside the others: neither waits for the
        other where the stages are remote, and what one part fails with, or how long it took, is not said of the other.
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
        hydrated, unknown = perf_counter(), states.nothing_known
        if unknown.all() or not unknown.any():
            return [(range(len(asked)), self._slates(asked, states, hydrated))]
        return [
            (rows.tolist(), self._slates([asked[row] for row in rows.tolist()], states.taken(rows), hydrated))
            for rows in (np.flatnonzero(~unknown), np.flatnonzero(unknown))
        ]

    async def _slates(self, asked: Sequence[Asked], states: UserStates, hydrated: float) -> list[Drawn]:
        request, arm = asked[0].request, asked[0].arm
        stages, choose = arm.stages, arm.stages.choose
        clock = [perf_counter()]
        retrieved = await (stages.retrieve(states, request.n) if choose is None else choose(request.context))
        clock.append(perf_counter())
        candidates = without_excluded(retrieved, states)
        clock.append(perf_counter())
        # Who has less time left gives up alone.
        budget = max((each.budget for each in asked), key=lambda budget: budget.ends_at)
        if choose is None:
            scores, degraded = await self._ranked(arm, states, candidates, budget)
        else:
            scores, degraded = candidates.scores, np.zeros(len(states), bool)
        clock.append(perf_counter())
        selections = await stages.select(states, candidates, scores, request.n, arm.policy)
        clock.append(perf_counter())
        took = [end - start for start, end in pairwise(clock)]
        return [
            Drawn(
                user_known=bool(states.user[row] >= 0),
                retrieved=retrieved.of(row),
                candidates=candidates.of(row),
                scores=scores[row],
                degraded=bool(degraded[row]),
                selection=selection,
                seconds=(hydrated - asked[row].started, *took),
            )
            for row, selection in enumerate(selections)
        ]

    async def _ranked(
        self, arm: Arm, states: UserStates, candidates: Candidates, budget: Budget
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores of the candidates, (B, M), and whose are those of retrieval for want of the ranker's, (B,)."""
        stages, clock = arm.stages, asyncio.get_running_loop()
        nobody, everybody = np.zeros(len(states), bool), np.ones(len(states), bool)
        if states.nothing_known.all():  # what is popular has no other order
            return await stages.unranked(candidates), nobody
        breaker, now = self._breakers.setdefault(arm.name, Breaker()), clock.time()
        if not breaker.asks(now):
            return await stages.unranked(candidates), everybody
        try:
            scores, finite = await scored(stages, states, candidates, budget)
        except Exception as error:
            if not isinstance(error, TimeoutError) or budget.rank_until(now) >= now + budget.rank_s:
                breaker.failed(clock.time())
            self._without_ranker(len(states), error)
            return await stages.unranked(candidates), everybody
        breaker.succeeded()  # whatever its scores are, nobody waits for it in vain
        if finite.all():
            return scores, nobody
        self._without_ranker(int((~finite).sum()), ScoreError(NOT_FINITE))
        return np.where(finite[:, None], scores, await stages.unranked(candidates)), ~finite

    def _without_ranker(self, n: int, error: Exception) -> None:
        before, self._n_unranked = self._n_unranked, self._n_unranked + n
        if self._n_unranked.bit_length() > before.bit_length():  # ever more seldom
            _LOG.warning("%d requests are answered without the ranker: %r", self._n_unranked, error)


def _no_features(error: DataError) -> ProblemError:
    field = "user_features" if error.column is None else f"user_features.{error.column}"
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{field}: {error.message}", field)
