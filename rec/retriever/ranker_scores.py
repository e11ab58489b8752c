"""What the ranker makes of candidates in logged rounds, as of the beginning of the period in which each round was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from rec.losses.sampled import first_column
from rec.recommender import Recommender
from rec.state import Candidates

Tell = Callable[[int], None]

BLOCK: Final = 64


class RankerScores(Protocol):
    """Scores of a few items a round; rounds before the first period have none."""

    def of_items(
        self, users: NDArray[np.int32], at_ms: NDArray[np.int64], items: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Scores of items (B, C) for users (B,) at times (B,), (B, C)."""
        ...


@final
@dataclass(frozen=True, slots=True)
class RankerTables:
    """Scores of all items for all users, found beforehand; for catalogues that are scored as a whole.

    Attributes: logits: (P, U, N). starts: where the periods begin, ascending, (P,).
    """

    logits: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def build(cls, recommenders: Sequence[Recommender], tell: Tell = lambda n_users: None) -> Self:
        """The tables of recommenders as of the beginning of each period, oldest first; `tell` as of `ranker_logits`."""
        return cls(np.stack([ranker_logits(recommender, tell) for recommender in recommenders]), _starts(recommenders))

    def of(self, users: NDArray[np.int32], at_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all items, (B, N)."""
        return self.logits[_period(self.starts, at_ms), users]

    def of_items(
        self, users: NDArray[np.int32], at_ms: NDArray[np.int64], items: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Scores of given items, (B, C)."""
        return self.logits[_period(self.starts, at_ms)[:, None], users[:, None], items]


@final
@dataclass(frozen=True, slots=True)
class RankersAtHand:
    """Scores found when they are asked for, so that no table of users and items is kept.

    A ranker reads how a candidate ranks among the others. Items are therefore scored among the user's own candidates,
    as many as the ranker learned from.

    Attributes: recommenders: as of the beginning of each period, oldest first.
    """

    recommenders: tuple[Recommender, ...]

    def of_items(
        self, users: NDArray[np.int32], at_ms: NDArray[np.int64], items: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Scores of given items, (B, C)."""
        period = _period(_starts(self.recommenders), at_ms)
        scores = np.empty(items.shape, np.float32)
        for place in np.unique(period):
            rows = np.flatnonzero(period == place)
            scores[rows] = _among_candidates(self.recommenders[place], users[rows], items[rows])
        return scores


def ranker_logits(recommender: Recommender, tell: Tell = lambda n_users: None) -> NDArray[np.float32]:
    """The ranker's score of every item for every user of the bundle, (U, N).

    Args: tell: called with how many more users are done, after every few.
    """
    snapshot = recommender.snapshot
    n_users, n_items = len(snapshot.user_ids), recommender.n_items
    logits = np.empty((n_users, n_items), np.float32)
    for start in range(0, n_users, BLOCK):
        users = np.arange(start, min(start + BLOCK, n_users))
        states = snapshot.user_states(users)
        items = np.tile(np.arange(n_items, dtype=np.int32), (len(users), 1))
        scores = recommender.source.scores(states, items)
        logits[users] = recommender.rank(states, Candidates(items, scores, recommender.source.name))
        tell(len(users))
    return logits


def _among_candidates(
    recommender: Recommender, users: NDArray[np.int32], items: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Scores of items (B, C), each of which stands once beside the user's candidates."""
    states, source = recommender.snapshot.user_states(users), recommender.source
    near = source.candidates(states, recommender.config.ranker.n_candidates).items
    together = np.concatenate([near, items], axis=1).astype(np.int32)
    first = first_column(torch.from_numpy(together)).numpy()
    once = np.where(first == np.arange(together.shape[1]), together, -1)
    scores = recommender.rank(states, Candidates(once, source.scores(states, once), source.name))
    return np.take_along_axis(scores, first, axis=1)[:, near.shape[1] :]


def _starts(recommenders: Sequence[Recommender]) -> NDArray[np.int64]:
    return np.array([recommender.snapshot.at_ms for recommender in recommenders])


def _period(starts: NDArray[np.int64], at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(starts, at_ms, side="right") - 1
