"""Sessions with users whose ratings are known or predicted: the environment of DRR, on MovieLens or other ratings.

    world = RatingWorld.of(split.train, MatrixFactorisation.fit(split.train, PMFConfig()), RatingEnvConfig())
    one, many = SessionEnv(RatingRound(world, 1)), SessionVectorEnv(RatingRound(world, 4096))

Source: Liu et al. (2018), arXiv:1810.12027, sections 4.2 and 5.3.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Self, final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

from rec.data.dataset import Interactions
from rec.errors import ConfigError, DataError
from rl.config import RatingEnvConfig
from rl.pmf import HIGHEST, LOWEST, RatingModel
from rl.session_env import Outcome
from rl.streams import SessionStreams

MIDDLE: Final = 3.0
HALF_RANGE: Final = 2.0

Integers = NDArray[np.integer[Any]]


def reward_of(rating: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """(rating - 3) / 2: from -1 for the lowest to 1 for the highest; what is above 0 counts as liked."""
    return (rating - MIDDLE) / HALF_RANGE


@final
@dataclass(frozen=True)
class RatingWorld:
    """Users, and how they rate items: as they did where that is known, else as a model predicts, with noise.

    Everything is taken from the ratings given: for training and for honest evaluation these are the training ratings.
    Items that nobody rated among them are never recommended, and users without any have no sessions. The sessions of a
    log (`logged`) recommend a user's own items of a later time alone.

    Attributes:
        model: predicts.
        config: length of history and session, noise.
        n_items: size of the catalogue, N; as an item it stands for none.
        users: who have sessions, (V,).
        lengths: how many items are recommended to each user in a session, (U,).
        histories: of all users, their latest liked items, oldest first, none on the left where there are fewer, (U, n).
        recommendable: which items may be recommended, (N,), or to which user which, (U, N).
        rated: known pairs as user * N + item, ascending, (R,).
        ratings: of these, (R,).
    """

    model: RatingModel
    config: RatingEnvConfig
    n_items: int
    users: NDArray[np.int64]
    lengths: NDArray[np.int64]
    histories: NDArray[np.int64]
    recommendable: NDArray[np.bool_] | sparse.csr_array
    rated: NDArray[np.int64]
    ratings: NDArray[np.float64]

    @classmethod
    def of(cls, known: Interactions, model: RatingModel, config: RatingEnvConfig) -> Self:
        """A world in which these ratings are known.

        Args: known: a pair at most once. model: fitted to the same ratings. config: of the sessions.
        Raises: DataError: for a log without ratings, with one off the scale, or with a pair twice. ConfigError: where a
            session can come to the end of the items.
        """
        ratings = _on_the_scale(known)
        _require_once(known)
        n_items, pairs = known.n_items, _pairs(known)
        order = pairs.argsort()
        recommendable = np.bincount(known.item, minlength=n_items) > 0
        longest = config.history_length + config.session_length
        if recommendable.sum() < longest:
            raise ConfigError(
                f"a session with its history takes {longest} items, and only {recommendable.sum()} are rated; make it "
                "shorter",
                field="session_length",
            )
        return cls(
            model=model,
            config=config,
            n_items=n_items,
            users=np.unique(known.user).astype(np.int64),
            lengths=np.full(known.n_users, config.session_length),
            histories=latest_liked(known, config.history_length),
            recommendable=recommendable,
            rated=pairs[order],
            ratings=ratings[order],
        )

    @classmethod
    def logged(cls, known: Interactions, later: Interactions, model: RatingModel, config: RatingEnvConfig) -> Self:
        """A world whose sessions rerank what each user rated later, most promising first, with those ratings.

        A session ends after `session_length` items or with the user's last one. Source: Liu et al. (2018), algorithm 2.

        Args: known: before the sessions, of which histories are taken. later: pairs not in `known`, of the same
            vocabularies. model: is never asked. config: of the sessions.
        Raises: DataError: for a log without ratings, with one off the scale, or with a pair twice, be it once in each.
        """
        _on_the_scale(known)
        ratings = _on_the_scale(later)
        _require_once(known, later)
        pairs = _pairs(later)
        order = pairs.argsort()
        shape = (later.n_users, later.n_items)
        counts = np.bincount(later.user, minlength=later.n_users)
        return cls(
            model=model,
            config=config,
            n_items=later.n_items,
            users=np.flatnonzero(counts),
            lengths=np.minimum(counts, config.session_length),
            histories=latest_liked(known, config.history_length),
            recommendable=sparse.csr_array((np.ones(len(later), np.bool_), (later.user, later.item)), shape=shape),
            rated=pairs[order],
            ratings=ratings[order],
        )

    def simulated_by(self, model: RatingModel, noise: float) -> Self:
        """Another simulator of the same users, histories and known ratings, to see what survives a change of it.

        Args: model: predicts what is not known, in the place of this world's. noise: of its predictions, in stars.
        """
        return replace(self, model=model, config=self.config.model_copy(update={"noise": noise}))

    def available(self, users: Integers) -> NDArray[np.bool_]:
        """Which items may be recommended to each of these users at first, (S, N) and new."""
        if isinstance(self.recommendable, sparse.csr_array):
            return self.recommendable[users].toarray()
        return np.repeat(self.recommendable[None], len(users), axis=0)

    def rate(self, users: Integers, items: Integers, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """How users rate items, (S,): as they did, or as predicted plus normal noise, kept within the scale.

        Args: users, items: positions, (S,). points: uniform in [0, 1), the quantiles of the noise, (S,).
        """
        pairs = users * self.n_items + items
        places = np.minimum(np.searchsorted(self.rated, pairs), len(self.rated) - 1)
        noise = self.config.noise * ndtri(np.maximum(points, 2.0**-54)) if self.config.noise else 0.0
        predicted = np.clip(self.model.predict(users, items) + noise, LOWEST, HIGHEST)
        return np.where(self.rated[places] == pairs, self.ratings[places], predicted)


def require_ratings(log: Interactions) -> None:
    """Refuses what no session can be made of.

    Raises: DataError: for a log without ratings, with one off the scale, or with a pair twice.
    """
    _on_the_scale(log)
    _require_once(log)


def _on_the_scale(log: Interactions) -> NDArray[np.float64]:
    if log.rating is None:
        raise DataError("ratings are required; this log has actions", field="rating")
    wrong = np.flatnonzero(~((log.rating >= LOWEST) & (log.rating <= HIGHEST)))
    if len(wrong):
        first = wrong[0]
        raise DataError(
            f"ratings from {LOWEST:g} to {HIGHEST:g} are required; found {log.rating[first]:g}, of user "
            f"{log.user_ids[log.user[first]]!r} and item {log.item_ids[log.item[first]]!r} ({len(wrong)} of {len(log)} "
            "ratings are off the scale); bring them to it",
            field="rating",
        )
    return log.rating.astype(np.float64)


def _pairs(log: Interactions) -> NDArray[np.int64]:
    return log.user.astype(np.int64) * log.n_items + log.item


def _require_once(*logs: Interactions) -> None:
    pairs = np.sort(np.concatenate([_pairs(log) for log in logs]))
    twice = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(twice):
        user, item = divmod(int(pairs[twice[0]]), logs[0].n_items)
        raise DataError(
            f"user {logs[0].user_ids[user]!r} rated item {logs[0].item_ids[item]!r} twice; keep one rating of each user"
            " and item",
            field="item_id",
        )


def latest_liked(ratings: Interactions, n: int) -> NDArray[np.int64]:
    """The latest n items each user liked, oldest first and ties in the order of the file, (U, n).

    Users with fewer have the number of items, which stands for none, on the left.
    """
    if ratings.rating is None:
        raise DataError("ratings are required; this log has actions", field="rating")
    liked = np.flatnonzero(reward_of(ratings.rating) > 0)
    liked = liked[np.lexsort((ratings.timestamp[liked], ratings.user[liked]))]
    user, counts = ratings.user[liked], np.bincount(ratings.user[liked], minlength=ratings.n_users)
    from_end = np.cumsum(counts)[user] - np.arange(len(liked))
    late = from_end <= n
    histories = np.full((ratings.n_users, n), ratings.n_items, np.int64)
    histories[user[late], n - from_end[late]] = ratings.item[liked[late]]
    return histories


@final
class RatingRound:
    """S sessions under way; each recommends items one after the other, none twice and none of its first history.

    An action is an item, or with item vectors a ranking vector: the item of the highest product with it is recommended,
    among equals the first. A ranking vector has a further entry, which may be left out: where it is above 0, any
    available item is recommended instead, with equal probability. The user of a session is drawn by step 0 of its
    stream, the noise of the n-th rating and the n-th such item by step n.

    Attributes:
        world: where they take place.
        vectors: of the items, float32, (N, D), or None where actions are items.
        users: whose sessions they are, (S,).
        history: latest liked items, see RatingWorld.histories, (S, n).
        shown: items recommended so far in order, then N, (S, T).
        n_steps: how many, (S,).
        done: which sessions are over, (S,).
    """

    def __init__(self, world: RatingWorld, n_sessions: int, vectors: NDArray[np.floating[Any]] | None = None) -> None:
        n, length = world.config.history_length, world.config.session_length
        self.world = world
        self.vectors = None if vectors is None else np.ascontiguousarray(vectors, np.float32)
        self.users = np.zeros(n_sessions, np.int64)
        self.history = np.full((n_sessions, n), world.n_items, np.int64)
        self.shown = np.full((n_sessions, length), world.n_items, np.int64)
        self.n_steps = np.zeros(n_sessions, np.int64)
        self.done = np.zeros(n_sessions, bool)
        self._first_history = self.history.copy()
        self._streams = SessionStreams(n_sessions)
        self.observation_space = spaces.Dict(
            {
                "user": spaces.Discrete(len(world.histories)),
                "history": spaces.MultiDiscrete([world.n_items + 1] * n),
                "first_history": spaces.MultiDiscrete([world.n_items + 1] * n),
                "shown": spaces.MultiDiscrete([world.n_items + 1] * length),
            }
        )
        self.action_space: spaces.Space[Any] = spaces.Discrete(world.n_items)
        if self.vectors is not None:
            self.action_space = spaces.Box(-1, 1, (self.vectors.shape[1] + 1,), np.float32)

    @property
    def seeded(self) -> bool:
        """Whether every session has been started."""
        return self._streams.started

    def seed(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """New streams for some rows, (n,) both; they have to be started."""
        self._streams.seed(rows, seeds)

    def start(self, rows: NDArray[np.int64]) -> None:
        """The next session of each of these streams, (n,)."""
        self.begin(rows, self.world.users[self._streams.start(rows, len(self.world.users))])

    def begin(self, rows: NDArray[np.int64], users: Integers) -> None:
        """Sessions of these users in these rows, (n,) both; their streams go on."""
        self.users[rows] = users
        self.history[rows] = self._first_history[rows] = self.world.histories[self.users[rows]]
        self.shown[rows] = self.world.n_items
        self.n_steps[rows], self.done[rows] = 0, False

    def available(self) -> NDArray[np.bool_]:
        """Which items each session may recommend now, (S, N)."""
        available = self.world.available(self.users)
        taken = np.concatenate([self._first_history, self.shown], axis=1)
        rows, places = np.nonzero(taken < self.world.n_items)
        available[rows, taken[rows, places]] = False
        return available

    def best(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """The available item of the highest score, (S, N), in each session; among equals the first, (S,)."""
        return np.where(self.available(), scores, -np.inf).argmax(axis=1)

    def act(self, actions: NDArray[Any]) -> Outcome:
        """Recommends an item in each session that is not over; `info` tells which (`item`).

        Args: actions: items, (S,), or ranking vectors, (S, D) or (S, D + 1).
        Raises: ValueError: for an item that is not available; the first such session is named.
        """
        drawn = self._streams.at(self.n_steps + 1)
        items = self._items(actions, drawn[:, 1])
        live = np.flatnonzero(~self.done)
        points = drawn[live, 0]
        reward = np.zeros(len(self.users))
        reward[live] = reward_of(self.world.rate(self.users[live], items[live], points))
        self.shown[live, self.n_steps[live]] = items[live]
        self.n_steps[live] += 1
        liked = np.flatnonzero(reward > 0)
        self.history[liked, :-1] = self.history[liked, 1:]
        self.history[liked, -1] = items[liked]
        self.done = self.n_steps >= self.world.lengths[self.users]
        return Outcome(reward, self.done.copy(), {"item": items})

    def observe(self) -> dict[str, NDArray[Any]]:
        """User, history now and at first, and the items recommended so far; the number of items stands for none."""
        return {
            "user": self.users.copy(),
            "history": self.history.copy(),
            "first_history": self._first_history.copy(),
            "shown": self.shown.copy(),
        }

    def _items(self, actions: NDArray[Any], points: NDArray[np.float64]) -> NDArray[np.int64]:
        if self.vectors is not None and actions.ndim == 2:
            dim = self.vectors.shape[1]
            scores = np.where(self.available(), actions[:, :dim].astype(np.float32) @ self.vectors.T, -np.inf)
            items = scores.argmax(axis=1)
            for row in np.flatnonzero((actions[:, dim:] > 0).any(axis=1) & ~self.done):
                free = np.flatnonzero(scores[row] > -np.inf)
                items[row] = free[int(points[row] * len(free))]
            return items
        items = np.where(self.done, 0, actions).astype(np.int64)
        known = (items >= 0) & (items < self.world.n_items)
        free = known & self.available()[np.arange(len(items)), np.where(known, items, 0)]
        wrong = np.flatnonzero(~free & ~self.done)
        if len(wrong):
            raise ValueError(
                f"an item that is rated by somebody, not in the first history and not yet shown is required; session "
                f"{wrong[0]} was given {items[wrong[0]]}; see RatingRound.available"
            )
        return items
