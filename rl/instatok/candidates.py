"""Candidates of sessions: what to choose the next video from, after what was shown so far."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, Self, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rl.config import BusinessScoreConfig
from rl.instatok.slate_log import Candidates
from rl.instatok.world import ACTIONS, REWARDS

# Similarities closer than this are equal, and the lower position goes first: sums that differ in the order of their
# terms alone must not differ in their candidates.
_GRAIN: Final = 2.0**-40

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


class SessionCandidates(Protocol):
    """Finds candidates for sessions under way; the same session has the same ones, whoever else is asked about."""

    def find(self, users: Integers, shown: Integers, rewards: Floats, k: int) -> Candidates:
        """The k candidates of each session, best first; nothing its user has seen is among them.

        Args: users: whose sessions, (S,). shown: positions of the videos shown so far in order, then -1, (S, T).
            rewards: of these, (S, T). k: how many, of which there must be so many left.
        """
        ...

    @property
    def most_seen(self) -> int:
        """How many videos a user had seen before any session, at most."""
        ...


@final
@dataclass(frozen=True)
class ScoredCosine:
    """Videos like those a user liked, by the cosine of everybody's scores, with a business score on top.

    x_i holds the sum of the scores each user gave video i by what they did: watched 1, skipped -2, liked 2, other
    -0.5. A video j that user u has not seen has similarity sum over the videos i they have of x_iu cos(x_i, x_j); the k
    of the highest similarity are candidates, best first by

        similarity_weight * similarity + views_weight * views + interest_weight * is-interest.

    What a session adds to x is of its user alone. A candidate was not seen by them, so it changes no inner product and
    of the norms only those of the videos shown: the similarities of a session are those of its user before it, and for
    each video shown one sparse row, r / sqrt(|x_i|^2 + r^2) x_i . x_j / |x_j|. Nothing is computed again.

    Source: Sarwar et al. (2001), doi:10.1145/371920.372071; the InstaTok notebook, functions get_recom and gen_scores.

    Attributes:
        similarity: before any session, -inf where the user has seen the video, (U, N).
        indptr, indices, products: x_i . x_j / |x_j| by rows i, (N + 1,) and (nnz,) twice.
        squares: |x_i|^2, (N,).
        views: so far, (N,).
        category: of the videos, (N,).
        interests: of the users, known or predicted, (U, 2).
        weights: of the parts of the score.
    """

    similarity: NDArray[np.float64]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    products: NDArray[np.float64]
    squares: NDArray[np.float64]
    views: NDArray[np.float64]
    category: NDArray[np.int64]
    interests: NDArray[np.int64]
    weights: BusinessScoreConfig

    @classmethod
    def fit(
        cls,
        log: Interactions,
        *,
        category: Integers,
        initial_views: Integers,
        interests: Integers,
        weights: BusinessScoreConfig,
    ) -> Self:
        """Counts a log of actions, whose users and items are those of the world by position.

        Args: log: InstaTok's. category, initial_views: of the videos, (N,). interests: of the users, (U, 2). weights:
            of the business score.
        Raises: ConfigError: for a log without InstaTok's actions.
        """
        if log.action is None or log.actions != ACTIONS:
            raise ConfigError(f"a log of the actions {', '.join(ACTIONS)} is required; found {log.actions or 'none'}")
        shape = (log.n_users, log.n_items)
        scores = sparse.csr_array((REWARDS[log.action], (log.user, log.item)), shape=shape)  # sums repeats
        squares = np.asarray((scores * scores).sum(axis=0)).reshape(-1)
        inverse = np.divide(1.0, np.sqrt(squares), out=np.zeros(log.n_items), where=squares > 0)
        products = sparse.csr_array(scores.T @ scores @ sparse.diags_array(inverse))
        similarity = (scores @ sparse.diags_array(inverse) @ products).toarray()
        similarity[log.user, log.item] = -np.inf
        return cls(
            similarity=similarity,
            indptr=products.indptr.astype(np.int64),
            indices=products.indices.astype(np.int32),
            products=np.asarray(products.data, np.float64),
            squares=squares,
            views=np.asarray(initial_views, np.float64) + np.bincount(log.item, minlength=log.n_items),
            category=np.asarray(category, np.int64),
            interests=np.asarray(interests, np.int64),
            weights=weights,
        )

    @property
    def most_seen(self) -> int:
        """How many videos a user had seen before any session, at most."""
        return int(np.isneginf(self.similarity).sum(axis=1).max())

    @cached_property
    def _worth_of_views(self) -> NDArray[np.float64]:
        views = np.log1p(self.views) if self.weights.log_views else self.views
        return self.weights.views_weight * views

    def find(self, users: Integers, shown: Integers, rewards: Floats, k: int) -> Candidates:
        """See SessionCandidates; scores are those of the business, ties go by position."""
        ids = np.empty((len(users), k), np.int64)
        scores = np.empty((len(users), k))
        _find(
            ids,
            scores,
            users,
            shown,
            rewards,
            self.similarity,
            self.indptr,
            self.indices,
            self.products,
            self.squares,
            self._worth_of_views,
            self.category,
            self.interests,
            self.weights.similarity_weight,
            self.weights.interest_weight,
        )
        return Candidates(ids, scores)


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _find(
    ids: Integers,
    scores: Floats,
    users: Integers,
    shown: Integers,
    rewards: Floats,
    similarity: Floats,
    indptr: Integers,
    indices: Integers,
    products: Floats,
    squares: Floats,
    worth_of_views: Floats,
    category: Integers,
    interests: Integers,
    similarity_weight: float,
    interest_weight: float,
) -> None:
    """Fills ids and scores, (S, k); a loop because a session touches a few thousand numbers, and calls cost more."""
    k, n_items = ids.shape[1], similarity.shape[1]
    found, best, place = np.empty(n_items), np.empty(k), np.empty(k, np.int64)
    for row in range(len(users)):
        user = users[row]
        found[:] = similarity[user]
        for step in range(shown.shape[1]):
            item = shown[row, step]
            if item < 0:
                break
            reward = rewards[row, step]
            factor = reward / np.sqrt(squares[item] + reward * reward)
            for at in range(indptr[item], indptr[item + 1]):
                found[indices[at]] += factor * products[at]
        for step in range(shown.shape[1]):
            if shown[row, step] < 0:
                break
            found[shown[row, step]] = -np.inf
        # Insertion into a short sorted list: most items are below its end, and one comparison passes them by.
        kept = 0
        for item in range(n_items):
            if found[item] <= (best[k - 1] if kept == k else -np.inf):
                continue
            value = np.rint(found[item] / _GRAIN) * _GRAIN
            if kept == k and value == best[k - 1]:
                continue
            at = kept if kept < k else k - 1
            while at > 0 and best[at - 1] < value:
                best[at], place[at] = best[at - 1], place[at - 1]
                at -= 1
            best[at], place[at] = value, item
            kept = min(kept + 1, k)
        for at in range(k):
            item = place[at]
            is_interest = category[item] == interests[user, 0] or category[item] == interests[user, 1]
            score = similarity_weight * best[at] + worth_of_views[item] + interest_weight * is_interest
            to = at
            while to > 0 and (
                scores[row, to - 1] < score or (scores[row, to - 1] == score and ids[row, to - 1] > item)
            ):
                scores[row, to], ids[row, to] = scores[row, to - 1], ids[row, to - 1]
                to -= 1
            scores[row, to], ids[row, to] = score, item
