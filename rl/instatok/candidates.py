"""Candidates of sessions: what to choose the next video from, after what was shown so far."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol, Self, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from scipy import sparse

from rec.config import WeightedScoreConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.i2i.interests import is_interest
from rec.i2i.weighted_score import weighted_score
from rl.instatok.slate_log import Candidates
from rl.instatok.world import ACTIONS, REWARDS

# Scores closer than this are equal, and the lower position goes first: sums that differ in the order of their
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
    """Videos like those a user liked, by the cosine of everybody's scores, with a weighted score on top.

    x_i holds the sum of the scores each user gave video i by what they did: watched 1, skipped -2, liked 2, other
    -0.5. A video j that user u has not seen has similarity sum over the videos i they have of x_iu cos(x_i, x_j); the k
    of the highest weighted score (`rec.i2i.weighted_score`) are candidates, best first:

        similarity_weight * similarity + views_weight * views + interest_weight * is-interest.

    At most `per_category` are of one category, as long as there are others.

    What a session adds to x is of its user alone. A candidate was not seen by them, so it changes no inner product and
    of the norms only those of the videos shown: the similarities of a session are those of its user before it, and for
    each video shown one sparse row, r / sqrt(|x_i|^2 + r^2) x_i . x_j / |x_j|. Nothing is computed again.

    Source: Sarwar et al. (2001), doi:10.1145/371920.372071; the InstaTok notebook, functions get_recom and gen_scores,
    which keeps the k most similar and orders these by score. Similarity alone follows a session's luck: what is like
    two skipped videos never comes back, and soon nothing that the user would watch is left among the k.

    Attributes:
        similarity: before any session, -inf where the user has seen the video, (U, N).
        indptr, indices, products: x_i . x_j / |x_j| by rows i, (N + 1,) and (nnz,) twice.
        squares: |x_i|^2, (N,).
        views: so far, (N,).
        category: of the videos, (N,).
        is_interest: whether a category interests a user, stated or predicted, (U, C).
        weights: of the parts of the score.
        per_category: candidates of one category, at most; None: no limit.
    """

    similarity: NDArray[np.float64]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    products: NDArray[np.float64]
    squares: NDArray[np.float64]
    views: NDArray[np.float64]
    category: NDArray[np.int64]
    is_interest: NDArray[np.bool_]
    weights: WeightedScoreConfig
    per_category: int | None = None

    @classmethod
    def fit(
        cls,
        log: Interactions,
        *,
        category: Integers,
        initial_views: Integers,
        is_interest: NDArray[np.bool_],
        weights: WeightedScoreConfig,
        per_category: int | None = None,
    ) -> Self:
        """Counts a log of actions, whose users and items are those of the world by position.

        Args: log: InstaTok's. category, initial_views: of the videos, (N,). is_interest: of the users, (U, C).
            weights, per_category: see the class.
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
            is_interest=is_interest,
            weights=weights,
            per_category=per_category,
        )

    @property
    def most_seen(self) -> int:
        """How many videos a user had seen before any session, at most."""
        return int(np.isneginf(self.similarity).sum(axis=1).max())

    @cached_property
    def _before(self) -> NDArray[np.float64]:
        """Business scores before any session, -inf where the user has seen the video, (U, N)."""
        of_interest = is_interest(self.is_interest, self.category)
        return weighted_score(self.similarity, self.views, of_interest, self.weights)

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
            self._before,
            self.indptr,
            self.indices,
            self.products,
            self.squares,
            self.weights.similarity_weight,
            self.category,
            self.per_category or k,
        )
        return Candidates(ids, scores)


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _find(
    ids: Integers,
    scores: Floats,
    users: Integers,
    shown: Integers,
    rewards: Floats,
    before: Floats,
    indptr: Integers,
    indices: Integers,
    products: Floats,
    squares: Floats,
    similarity_weight: float,
    category: Integers,
    per_category: int,
) -> None:
    """Fills ids and scores, (S, k); a loop because a session touches a few thousand numbers, and calls cost more."""
    k, n_items, n_categories = ids.shape[1], before.shape[1], category.max() + 1
    found = np.empty(n_items)
    best, place = np.empty((n_categories, k)), np.empty((n_categories, k), np.int64)
    kept, taken = np.empty(n_categories, np.int64), np.empty(n_categories, np.int64)
    for row in range(len(users)):
        found[:] = before[users[row]]
        for step in range(shown.shape[1]):
            item = shown[row, step]
            if item < 0:
                break
            reward = rewards[row, step]
            factor = similarity_weight * reward / np.sqrt(squares[item] + reward * reward)
            for at in range(indptr[item], indptr[item + 1]):
                found[indices[at]] += factor * products[at]
        for step in range(shown.shape[1]):
            if shown[row, step] < 0:
                break
            found[shown[row, step]] = -np.inf
        # Insertion into short sorted lists: most items are below the end of theirs, and one comparison passes them by.
        kept[:] = 0
        for item in range(n_items):
            group = category[item]
            if found[item] <= (best[group, k - 1] if kept[group] == k else -np.inf):
                continue
            score = np.rint(found[item] / _GRAIN) * _GRAIN
            if kept[group] == k and score == best[group, k - 1]:
                continue
            at = min(kept[group], k - 1)
            while at > 0 and best[group, at - 1] < score:
                best[group, at], place[group, at] = best[group, at - 1], place[group, at - 1]
                at -= 1
            best[group, at], place[group, at] = score, item
            kept[group] = min(kept[group] + 1, k)
        taken[:] = 0
        filled, limit = 0, per_category
        while filled < k:
            chosen = -1
            for group in range(n_categories):
                if taken[group] == min(kept[group], limit):
                    continue
                if chosen >= 0:
                    ours, theirs = best[group, taken[group]], best[chosen, taken[chosen]]
                    if ours < theirs or (ours == theirs and place[group, taken[group]] > place[chosen, taken[chosen]]):
                        continue
                chosen = group
            if chosen < 0:
                limit = k
                continue
            score, item = best[chosen, taken[chosen]], place[chosen, taken[chosen]]
            taken[chosen] += 1
            at = filled
            while at > 0 and (
                scores[row, at - 1] < score or (scores[row, at - 1] == score and ids[row, at - 1] > item)
            ):
                scores[row, at], ids[row, at] = scores[row, at - 1], ids[row, at - 1]
                at -= 1
            scores[row, at], ids[row, at] = score, item
            filled += 1
