"""The best that can be done where users tire: dynamic programming over the categories shown lately."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from rl.instatok.policies import SessionPolicy
from rl.instatok.sessions import Sessions
from rl.instatok.world import FATIGUE_WINDOW, REWARDS, InstaTok


def category_values(watch_p: NDArray[np.float64], max_steps: int, *, myopic: bool = False) -> list[NDArray[np.float64]]:
    """What the rest of a session is worth before each step, for every sequence of categories shown lately.

    V_t(h) = max_c r(p) + (1 - e(p)) V_(t+1)(hc), with p = watch_p[c, how often c is in h], h the last W categories,
    r(p) the expected reward of a step, e(p) = (1 - p) / 3 the probability that it is the last, and V_T = 0.

    Args:
        watch_p: of each category after 0 to W repeats, for each kind of user, (P, C, W + 1).
        max_steps: T.
        myopic: whether only categories of the highest r(p) are shown; among equals the one of the higher value.

    Returns: V_t for t < T, each (P, C ** min(t, W)); h is a number to the base C, its latest digit last.
    """
    n_kinds, n_categories = watch_p.shape[:2]
    window = watch_p.shape[2] - 1
    values: list[NDArray[np.float64]] = []
    following = np.zeros((n_kinds, n_categories ** min(max_steps, window)))
    length, p = -1, watch_p
    reward = stay = p
    for step in reversed(range(max_steps)):
        if length != min(step, window):
            length = min(step, window)  # before step t there are at most t categories to remember
            p = _watch_p_after_all(watch_p, length)
            reward, stay = _of_step(p)
        # The latest digit of what follows is the category shown now; one more than W, and the oldest is forgotten.
        after = np.moveaxis(following.reshape(n_kinds, -1, n_categories), 2, 1)
        value = stay.reshape(n_kinds, n_categories, -1, after.shape[2]) * after[:, :, None]
        value = value.reshape(p.shape) + reward
        following = _of_allowed(value, p, myopic, axis=1).max(axis=1)
        values.append(following)
    return values[::-1]


def _watch_p_after_all(watch_p: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Watch probability of each category after every sequence of this length, (P, C, C ** length)."""
    n_categories = watch_p.shape[1]
    digits = np.arange(n_categories**length) // n_categories ** np.arange(length)[:, None] % n_categories
    repeats = (digits == np.arange(n_categories)[:, None, None]).sum(axis=1)
    return watch_p[:, np.arange(n_categories)[:, None], repeats]


def _of_step(watch_p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected reward of a step, and the probability that it is not the last; any shape."""
    each_other = (1 - watch_p) / (len(REWARDS) - 1)
    return watch_p * REWARDS[0] + each_other * REWARDS[1:].sum(), 1 - each_other


def _of_allowed(
    value: NDArray[np.float64], watch_p: NDArray[np.float64], myopic: bool, axis: int
) -> NDArray[np.float64]:
    """Values, -inf where a myopic policy would not look: the reward of a step rises with the watch probability."""
    return np.where(watch_p == watch_p.max(axis=axis, keepdims=True), value, -np.inf) if myopic else value


@final
@dataclass(frozen=True)
class Plan:
    """Which category to show each user next.

    Users whose categories have the same watch probabilities, in whatever order, share one table: there are four kinds.

    Attributes:
        world: whose users.
        myopic: whether the plan looks at the next reward alone.
        rank: place of each category in the order of its user's kind, (U, C).
        kind: of each user, (U,).
        watch_p: of the categories in this order after 0 to W repeats, (P, C, W + 1).
        values: see `category_values`.
    """

    world: InstaTok
    myopic: bool
    rank: NDArray[np.int64]
    kind: NDArray[np.int64]
    watch_p: NDArray[np.float64]
    values: list[NDArray[np.float64]]

    @classmethod
    def of(cls, world: InstaTok, *, myopic: bool = False) -> Self:
        """The best plan of a world, or the best of those that look no further than the next reward."""
        p = world.fatigued_p
        if p is None:
            p = np.repeat(world.watch_p[:, :, None], FATIGUE_WINDOW + 1, axis=2)
        order = np.lexsort(np.moveaxis(-p, 2, 0)[::-1], axis=1)
        ordered = np.take_along_axis(p, order[:, :, None], axis=1)
        watch_p, kind = np.unique(ordered, axis=0, return_inverse=True)
        values = category_values(watch_p, world.config.max_steps, myopic=myopic)
        return cls(world, myopic, order.argsort(axis=1), kind.reshape(-1), watch_p, values)

    @property
    def value(self) -> NDArray[np.float64]:
        """Expected reward of a session of each user, all categories being at hand, (U,)."""
        return self.values[0][self.kind, 0]

    def category_values(self, sessions: Sessions) -> NDArray[np.float64]:
        """What each category is worth now, with all that follows, (S, C); -inf where the plan would not look.

        What follows is worth what it is when all categories are at hand.
        """
        users, steps = sessions.users, np.minimum(sessions.n_steps, len(self.values) - 1)
        n_categories, window = self.watch_p.shape[1], self.watch_p.shape[2] - 1
        everything = np.broadcast_to(np.arange(n_categories), (len(sessions), n_categories))
        rank, kind = self.rank[users], self.kind[users]
        p = self.watch_p[kind[:, None], rank, sessions.repeats(everything)]
        recent = np.take_along_axis(rank, np.maximum(sessions.recent, 0), axis=1) * (sessions.recent >= 0)
        # The oldest is forgotten at the next step.
        kept = recent[:, 1:] @ n_categories ** np.arange(window - 1, 0, -1)
        places = self._starts[steps + 1][:, None] + kept[:, None] + rank
        after = self._flat[kind[:, None], places]
        reward, stay = _of_step(p)
        return _of_allowed(reward + stay * after, p, self.myopic, axis=1)

    def regret(self, sessions: Sessions, categories: NDArray[np.integer]) -> NDArray[np.float64]:
        """What showing these categories now is worth less than the best, 0 in sessions that are over, (S,) both.

        Of the optimum's plan, the expected sum of this over a session is what a policy earns less than the optimum:
        V(s_0) - E sum_t r_t = E sum_t (V(s_t) - Q(s_t, a_t)). Unlike rewards it is free of the luck of each step.

        Source: Kakade and Langford (2002), lemma 6.1.
        """
        values = self.category_values(sessions)
        short = values.max(axis=1) - values[np.arange(len(sessions)), categories]
        return np.where(sessions.done, 0.0, short)

    def policy(self) -> SessionPolicy:
        """Shows a random video of the category the plan names."""

        def policy(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
            return sessions.world.random_video_of(self.category_values(sessions).argmax(axis=1), rng)

        return policy

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum([values.shape[1] for values in self.values])])

    @cached_property
    def _flat(self) -> NDArray[np.float64]:
        """Values before all steps side by side, and zeros after the last, (P, sum of states)."""
        n_last = self.watch_p.shape[1] ** (self.watch_p.shape[2] - 1)
        return np.concatenate([*self.values, np.zeros((len(self.watch_p), n_last))], axis=1)
