"""Candidates of sessions from the sources of `rec.retrieval`, a bundle's among them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import ConfigError
from rec.recommender import Recommender
from rec.state import Candidates as Retrieved
from rec.state import UserStates
from rl.instatok.slate_log import Candidates
from rl.instatok.world import InstaTok

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]


@final
@dataclass(frozen=True)
class SourceCandidates:
    """Asks a source about the user as they are now: what a session showed is excluded, what was liked is history.

    Attributes:
        states: of all users of the world before any session, under the catalogue of the source.
        retrieve: finds the k best items of each state, in the order and with the scores of the source.
        world_item: position in the world of each item of the catalogue, (N',).
        catalogue_item: position in the catalogue of each item of the world, -1 where it is not there, (N,).
    """

    states: UserStates
    retrieve: Callable[[UserStates, int], Retrieved]
    world_item: NDArray[np.int64]
    catalogue_item: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        world: InstaTok,
        item_ids: NDArray[np.object_],
        states: UserStates,
        retrieve: Callable[[UserStates, int], Retrieved],
    ) -> Self:
        """A source over items of the world.

        Args: world: whose users. item_ids: the catalogue of the source, (N',). states, retrieve: see the class.
        Raises: ConfigError: for an item that is not of the world.
        """
        where = {item_id: position for position, item_id in enumerate(world.item_ids)}
        strangers = [item_id for item_id in item_ids if item_id not in where]
        if strangers:
            raise ConfigError(f"item {strangers[0]!r} is not of this world; train on its log", field="bundle")
        world_item = np.array([where[item_id] for item_id in item_ids], np.int64)
        catalogue_item = np.full(world.n_items, -1, np.int64)
        catalogue_item[world_item] = np.arange(len(world_item))
        return cls(states, retrieve, world_item, catalogue_item)

    @classmethod
    def load(cls, world: InstaTok, home: str | None, version: str | None) -> Self:
        """What a bundle of a registry retrieves; None: the default home, the CURRENT version."""
        recommender = Recommender.load(home, version)
        states = recommender.hydrate(world.user_ids.tolist())
        return cls.of(world, recommender.item_ids, states, recommender.retrieve)

    @property
    def most_seen(self) -> int:
        """How many videos a user cannot be shown before any session, at most."""
        absent = int((self.catalogue_item < 0).sum())
        return absent + int(np.diff(self.states.excluded_indptr).max())

    def find(self, users: Integers, shown: Integers, rewards: Floats, k: int) -> Candidates:
        """See SessionCandidates; the order is that of the source.

        Raises: ConfigError: where the source finds fewer.
        """
        found = self.retrieve(self._now(users, shown, rewards), k)
        short = np.flatnonzero((found.items < 0).any(axis=1))
        if len(short):
            raise ConfigError(f"{k} candidates are required; {found.source} finds fewer for session {short[0]}")
        return Candidates(self.world_item[found.items], found.scores)

    def _now(self, users: Integers, shown: Integers, rewards: Floats) -> UserStates:
        """States of the users of S sessions after what was shown."""
        before, n_items = self.states, len(self.world_item)
        items = np.where(shown >= 0, self.catalogue_item[shown], -1)
        history = np.concatenate([before.history[users], np.where(rewards > 0, items, -1)], axis=1)
        # What there is moves to the right, in its order; the latest remain.
        history = np.take_along_axis(history, (history >= 0).argsort(axis=1, kind="stable"), axis=1)
        starts, ends = before.excluded_indptr[users], before.excluded_indptr[users + 1]
        owners = np.repeat(np.arange(len(users)), ends - starts)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(ends - starts) - (ends - starts), ends - starts)
        excluded = before.excluded[np.repeat(starts, ends - starts) + places]
        rows, columns = np.nonzero(items >= 0)
        keys = np.concatenate([owners * n_items + excluded, rows * n_items + items[rows, columns]])
        keys = np.unique(keys)
        return replace(
            before,
            user=before.user[users],
            at_ms=before.at_ms[users],
            history=history[:, -before.history.shape[1] :].astype(np.int32),
            features={name: values[users] for name, values in before.features.items()},
            excluded_indptr=np.searchsorted(keys, np.arange(len(users) + 1) * n_items),
            excluded=(keys % n_items).astype(np.int32),
        )
