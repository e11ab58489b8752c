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

    @cached_property
    def _ranking(self) -> NDArray[np.int32]:
        """The videos by category, of each the best first, before any session, (U, N)."""
        scores = np.rint(self._before / _GRAIN) * _GRAIN
        return np.lexsort((-scores, np.broadcast_to(self.category, scores.shape))).astype(np.int32)

    @cached_property
    def _category_starts(self) -> NDArray[np.int64]:
        """Where categories start in a ranking, (C + 1,)."""
        return np.concatenate([[0], np.bincount(self.category).cumsum()])

    def find(self, users: Integers, shown: Integers, rewards: Floats, k: int) -> Candidates:
        """See SessionCandidates; scores are those of the business, ties go by position."""
        ids = np.empty((len(users), k), np.int64)
        scores = np.empty((len(users), k))
        _find(
            ids,
            scores,
            np.argsort(users, kind="stable"),  # so that what is known of a user is read from the cache
            users,
            shown,
            rewards,
            self._before,
            self._ranking,
            self._category_starts,
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
    order: Integers,
    users: Integers,
    shown: Integers,
    rewards: Floats,
    before: Floats,
    ranking: Integers,
    starts: Integers,
    indptr: Integers,
    indices: Integers,
    products: Floats,
    squares: Floats,
    similarity_weight: float,
    category: Integers,
    per_category: int,
) -> None:
    """Fills ids and scores, (S, k); a loop because a session touches a few hundred numbers, and calls cost more.

    Only what shares a user with a video shown has another score than before the session. All else keeps its order, so
    that of each category no more than the first few are looked at.
    """
    k, n_items, n_categories = ids.shape[1], before.shape[1], len(starts) - 1
    found, touched, touched_in = np.empty(n_items), np.empty(n_items, np.int64), np.full(n_items, -1)
    best, place = np.empty((n_categories, k)), np.empty((n_categories, k), np.int64)
    kept = np.empty(n_categories, np.int64)
    for row in order:
        user, n_touched = users[row], 0
        for step in range(shown.shape[1]):
            item = shown[row, step]
            if item < 0:
                break
            reward = rewards[row, step]
            factor = similarity_weight * reward / np.sqrt(squares[item] + reward * reward)
            for at in range(indptr[item], indptr[item + 1]):
                other = indices[at]
                if touched_in[other] != row:
                    touched_in[other], touched[n_touched], found[other] = row, other, before[user, other]
                    n_touched += 1
                found[other] += factor * products[at]
        for step in range(shown.shape[1]):
            item = shown[row, step]
            if item < 0:
                break
            if touched_in[item] != row:
                touched_in[item], touched[n_touched] = row, item
                n_touched += 1
            found[item] = -np.inf
        # So many of each category do, unless some have fewer.
        for length in (per_category, k):
            kept[:] = 0
            for item in touched[:n_touched]:
                group = category[item]
                n = _insert(best[group, :length], place[group, :length], kept[group], _rounded(found[item]), item)
                kept[group] = max(n, kept[group])
            for group in range(n_categories):
                for item in ranking[user, starts[group] : starts[group + 1]]:
                    if touched_in[item] != row:
                        n = _insert(
                            best[group, :length], place[group, :length], kept[group], _rounded(before[user, item]), item
                        )
                        if n < 0:
                            break
                        kept[group] = n
            if _merge(scores[row], ids[row], best, place, kept, per_category) == k:
                break


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _merge(scores: Floats, ids: Integers, best: Floats, place: Integers, kept: Integers, per_category: int) -> int:
    """Takes the best of the sorted lists of all categories, at most so many of one while there are others."""
    taken, filled = np.zeros(len(kept), np.int64), 0
    for limit in (per_category, len(ids)):
        while filled < len(ids):
            chosen = -1
            for group in range(len(kept)):
                at = taken[group]
                if at < min(kept[group], limit) and (
                    chosen < 0
                    or _goes_before(
                        best[group, at], place[group, at], best[chosen, taken[chosen]], place[chosen, taken[chosen]]
                    )
                ):
                    chosen = group
            if chosen < 0:
                break
            filled = _insert(scores, ids, filled, best[chosen, taken[chosen]], place[chosen, taken[chosen]])
            taken[chosen] += 1
    return filled


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _insert(scores: Floats, items: Integers, n: Any, score: Any, item: int) -> int:
    """Puts an item into the first n of a sorted list, and tells how many it holds then; -1 where it has no place."""
    at = min(n, len(scores) - 1)
    if score == -np.inf or (n == len(scores) and not _goes_before(score, item, scores[at], items[at])):
        return -1
    while at > 0 and _goes_before(score, item, scores[at - 1], items[at - 1]):
        scores[at], items[at] = scores[at - 1], items[at - 1]
        at -= 1
    scores[at], items[at] = score, item
    return min(n + 1, len(scores))


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _goes_before(score: Any, item: Any, other_score: Any, other: Any) -> bool:
    return score > other_score or (score == other_score and item < other)


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _rounded(score: Any) -> Any:
    return np.rint(score / _GRAIN) * _GRAIN
