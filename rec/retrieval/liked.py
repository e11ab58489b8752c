"""Who liked what, as a sparse matrix: what the counted sources are fitted on and score from."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.errors import TrainingError
from rec.retrieval.arrays import forget
from rec.retrieval.top_k import blocks
from rec.state import UserStates

LIKED_ARRAYS: Final = ("indptr", "items")
"""What a source's file calls them."""
# Pairs at once of what is counted over all users.
BLOCK: Final = 2**20


@dataclass(frozen=True)
class LikedItems:
    """Items of each training user, each once and ascending, as runs.

    Those of a loaded source are on the disk: what is read of them for some users is not kept, so that memory does not
    grow with how many there are.

    Attributes:
        indptr: run of each user, int64, (U + 1,).
        items: item positions, int32, (nnz,).
        n_items: size of the catalogue, N.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    n_items: int

    @classmethod
    def of(cls, interactions: Interactions) -> Self:
        """The pairs that occur; how often and when does not matter.

        Raises: TrainingError: when there are none.
        """
        if not len(interactions):
            raise TrainingError("there are no interactions to learn from; check min_rating and positive_actions")
        n_items = interactions.n_items
        pairs = np.unique(interactions.user.astype(np.int64) * n_items + interactions.item)
        indptr = np.searchsorted(pairs, np.arange(interactions.n_users + 1) * n_items)
        return cls(indptr, (pairs % n_items).astype(np.int32), n_items)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end, which nobody has liked."""
        return replace(self, n_items=n_items)

    def matrix(self) -> sparse.csr_array:
        """1 where a user liked an item, float32, (U, N)."""
        ones = np.ones(len(self.items), np.float32)
        return sparse.csr_array((ones, self.items, self.indptr), shape=(len(self.indptr) - 1, self.n_items))

    @cached_property
    def item_users(self) -> NDArray[np.int64]:
        """How many users liked each item, (N,)."""
        counts = np.zeros(self.n_items, np.int64)
        for part in blocks(len(self.items), BLOCK):
            counts += np.bincount(self.items[part], minlength=self.n_items)
            forget(self.items)
        return counts

    def profiles(self, states: UserStates) -> sparse.csr_array:
        """What each user is known to like: the training row, and the history of the state, float32, (B, N).

        The history holds only the last few items but is newer than training and known for users it never saw; the
        training row is complete. The excluded items of a state take no part: they may be excluded for reasons that
        say nothing about taste. A state must not be older than the training data, or its row tells the future.
        """
        known = (states.user >= 0) & (states.user < len(self.indptr) - 1)
        users = np.where(known, states.user, 0)
        lengths = np.where(known, self.indptr[users + 1] - self.indptr[users], 0)
        trained = np.repeat(np.arange(len(states)), lengths)
        offsets = np.arange(len(trained)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = self.items[np.repeat(self.indptr[users], lengths) + offsets]
        forget(self.indptr, self.items)
        recent, column = np.nonzero(states.history >= 0)
        owners = np.concatenate([trained, recent])
        pairs = np.unique(owners * self.n_items + np.concatenate([items, states.history[recent, column]]))
        indptr = np.searchsorted(pairs, np.arange(len(states) + 1) * self.n_items)
        ones = np.ones(len(pairs), np.float32)
        return sparse.csr_array((ones, pairs % self.n_items, indptr), shape=(len(states), self.n_items))


def extended_similarity(similarity: sparse.csr_array, n_items: int) -> sparse.csr_array:
    """Similarities of items (N, N) for a catalogue to which others were added at the end, which are like nothing."""
    extended = similarity.copy()
    extended.resize((n_items, n_items))
    return extended


def where_evident(
    scores: NDArray[np.floating], profiles: sparse.csr_array, popularity: NDArray[np.integer]
) -> NDArray[np.floating]:
    """Scores (B, N) of counted evidence, -inf where they are 0 as there is none, in place.

    Args: popularity: the scores of users about whom nothing is known, (N,).
    """
    scores[np.diff(profiles.indptr) == 0] = popularity
    scores[scores == 0] = -np.inf
    return scores
