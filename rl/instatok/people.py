"""InstaTok's people as the users of a service: they ask for slates, watch, say what they did, and leave."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import DataError
from rl.instatok.sessions import Sessions
from rl.instatok.world import ACTIONS, InstaTok


class Service(Protocol):
    """What people see of a recommender."""

    async def recommend(self, user_id: str, n: int) -> tuple[str, Sequence[str]]:
        """An id of the slate, and its items from the top."""
        ...

    async def feedback(self, request_id: str, acts: Sequence[tuple[str, str]]) -> None:
        """Takes what a user did with items of a slate, as (item, action)."""
        ...


Served = TypeVar("Served", bound=Service)


class Unserved(Exception):
    """The service did not do what it was asked; the visit ends, as a person's would."""


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """One session of one person; `cut_off` when the service ended it."""

    user: int
    reward: float
    n_items: int
    n_slates: int
    cut_off: bool


@final
class People:
    """The users of a world, in the order in which they come: everybody once, then everybody again, and so on."""

    def __init__(self, world: InstaTok, seed: int) -> None:
        """Args: seed: of who comes when, and of what they do."""
        self._world = world
        self._seed = seed

    async def visit_all(
        self,
        services: Sequence[Served],
        n_visits: int,
        n: int,
        awaited: Callable[[Served, int], Awaitable[None]] | None = None,
    ) -> list[Visit]:
        """So many visits, as many at once as there are services, each with slates of n items.

        Args: awaited: before a visit, with its service and number; None: it begins as soon as there is a service.
        Returns: in the order in which they began. What a person does depends on the seed, the visit, and what is shown.
        """
        visits: dict[int, Visit] = {}
        coming = iter(enumerate(self._order(n_visits)))

        async def receive(service: Served) -> None:
            for number, user in coming:
                if awaited is not None:
                    await awaited(service, number)
                visits[number] = await self._visit(number, user, service, n)

        tasks = [asyncio.create_task(receive(service)) for service in services]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [visits[number] for number in range(n_visits)]

    async def _visit(self, number: int, user: int, service: Service, n: int) -> Visit:
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(1, number)))
        session, n_slates = Sessions(self._world, np.array([user])), 0
        cut_off = False
        try:
            while not session.done[0]:
                request_id, item_ids = await service.recommend(str(self._world.user_ids[user]), n)
                n_slates += 1
                if not item_ids:
                    break
                actions = session.view_slates(self._positions(item_ids)[None], rng).action[0]
                acts = [(item, ACTIONS[action]) for item, action in zip(item_ids, actions, strict=True) if action >= 0]
                await service.feedback(request_id, acts)
        except Unserved:
            cut_off = True
        return Visit(user, float(session.total_reward[0]), int(session.n_steps[0]), n_slates, cut_off)

    def _order(self, n_visits: int) -> Iterator[int]:
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0,)))
        for start in range(0, n_visits, self._world.n_users):
            yield from rng.permutation(self._world.n_users)[: n_visits - start].tolist()

    def _positions(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        for item_id in item_ids:
            if item_id not in self._position_of:
                raise DataError(
                    f"the service shows {item_id!r}, which is no video of this world: serve a model trained on it "
                    "(`tandem train --data instatok`), and give the same world",
                    field="world",
                )
        return np.array([self._position_of[item_id] for item_id in item_ids], np.int64)

    @cached_property
    def _position_of(self) -> dict[str, int]:
        return {item_id: position for position, item_id in enumerate(self._world.item_ids.tolist())}


def mean_reward(visits: Sequence[Visit]) -> dict[str, Any]:
    """Mean reward of a visit, its standard error over users, and items seen; visits that were cut off do not count."""
    whole = [visit for visit in visits if not visit.cut_off]
    if not whole:
        return {"value": None, "std_error": None, "n": 0, "items": None}
    reward = np.array([visit.reward for visit in whole])
    # A user's visits are not independent of each other, so users are what is counted.
    _, user = np.unique([visit.user for visit in whole], return_inverse=True)
    residuals = np.bincount(user, reward - reward.mean())
    n_users = len(residuals)
    spread = float((residuals**2).sum() * n_users / (n_users - 1)) if n_users > 1 else float("nan")
    return {
        "value": float(reward.mean()),
        "std_error": spread**0.5 / len(whole) if n_users > 1 else None,
        "n": len(whole),
        "items": float(np.mean([visit.n_items for visit in whole])),
    }


def reward_curve(visits: Sequence[Visit], n_points: int) -> list[dict[str, Any]]:
    """`mean_reward` of so many stretches of visits, as even as they go, in the order in which they began."""
    bounds = np.linspace(0, len(visits), min(n_points, len(visits)) + 1).round().astype(int).tolist()
    return [{"first": start, "last": end - 1, **mean_reward(visits[start:end])} for start, end in pairwise(bounds)]
