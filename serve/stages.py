"""The stages of the graph as the gateway calls them: of this process, or remote ones."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from rec.errors import ScoreError
from rec.recommender import Recommender
from rec.state import Candidates, UserStates
from serve.agent import AgentStage
from serve.budget import UNLIMITED, Budget
from serve.config import PolicyConfig, ServeConfig
from serve.hydrate import HydrateStage
from serve.ranker import RankerStage
from serve.retriever import RetrieverStage
from serve.select import Selection, SelectStage
from serve.sessions import NOBODY, Session

NOT_FINITE: Final = "the ranker's scores must be finite"
STAGES: Final = ("hydrate", "retrieve", "filter", "rank", "select")

Given = ParamSpec("Given")
Result = TypeVar("Result")


@final
@dataclass(frozen=True, slots=True)
class Stages:
    """The stages, wherever they run; `choose` stands for retrieve and rank where it is.

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


async def scored(
    stages: Stages, states: UserStates, candidates: Candidates, budget: Budget
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The ranker's scores of candidates, (B, M), and of which users they are all finite numbers, (B,).

    Raises: TimeoutError: when it takes longer than the budget leaves it. ScoreError: for scores of another shape.
        Whatever the ranker raises.
    """
    async with asyncio.timeout_at(budget.rank_until(asyncio.get_running_loop().time())):
        scores = await stages.rank(states, candidates)
    if scores.shape != candidates.items.shape:
        raise ScoreError(f"the ranker's scores must be {candidates.items.shape}, by candidate; found {scores.shape}")
    finite = np.isfinite(scores) | (candidates.items < 0)
    return scores, np.asarray(finite.all(axis=1))


async def ranked(
    stages: Stages, states: UserStates, candidates: Candidates, budget: Budget = UNLIMITED
) -> NDArray[np.float64]:
    """The ranker's scores of candidates, (B, M).

    Raises: ScoreError: when one is no finite number. And as `scored`.
    """
    scores, finite = await scored(stages, states, candidates, budget)
    if not finite.all():
        raise ScoreError(NOT_FINITE)
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


def _awaitable(stage: Callable[Given, Result]) -> Callable[Given, Awaitable[Result]]:
    async def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        return stage(*args, **kwargs)

    return call
