"""Sessions: one video after the other until the user leaves, thousands of them side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from rl.instatok.world import (
    ACTIONS,
    ENDS_SESSION,
    FATIGUE_WINDOW,
    REWARDS,
    SEEN_TO_THE_END,
    VIDEO_SECONDS,
    InstaTok,
    action_at,
)

if TYPE_CHECKING:
    from rl.instatok.policies import SessionPolicy


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """What S users did with the videos shown to them.

    Attributes:
        action: position in ACTIONS, -1 for a video the user did not come to see, int8, (S,) or (S, K).
        reward: of each action, 0 where there is none, same shape.
        done: whether the session is over, same shape.
    """

    action: NDArray[np.int8]
    reward: NDArray[np.float64]
    done: NDArray[np.bool_]


@final
class Sessions:
    """S sessions that go on side by side.

    A session ends when its user takes the action `other`, or after `max_steps` videos of the world's config.

    Attributes:
        world: where they take place.
        users: whose sessions they are; a user may have several, (S,).
        n_steps: videos seen so far, (S,).
        total_reward: so far, (S,).
        action_counts: how often each of ACTIONS was taken so far, (S, 4).
        last_action: position in ACTIONS, -1 before the first, int8, (S,).
        recent: categories of the last FATIGUE_WINDOW videos, the latest last, -1 for none, int8, (S, W).
        done: which sessions are over, (S,).
    """

    def __init__(self, world: InstaTok, users: NDArray[np.integer]) -> None:
        self.world = world
        self.users = np.array(users, dtype=np.int64)
        self.n_steps = np.zeros(len(users), dtype=np.int64)
        self.total_reward = np.zeros(len(users))
        self.action_counts = np.zeros((len(users), len(ACTIONS)), dtype=np.int64)
        self.last_action = np.full(len(users), -1, dtype=np.int8)
        self.recent = np.full((len(users), FATIGUE_WINDOW), -1, dtype=np.int8)
        self.done = np.zeros(len(users), dtype=bool)

    def __len__(self) -> int:
        return len(self.users)

    def restart(self, rows: NDArray[np.integer], users: NDArray[np.integer]) -> None:
        """New sessions of these users in the place of some rows, (n,) both."""
        self.users[rows] = users
        self.n_steps[rows], self.total_reward[rows], self.action_counts[rows] = 0, 0.0, 0
        self.last_action[rows], self.recent[rows], self.done[rows] = -1, -1, False

    def repeats(self, categories: NDArray[np.integer]) -> NDArray[np.int64]:
        """How many of the last FATIGUE_WINDOW videos of each session were of these categories, (S,) or (S, M)."""
        wanted = categories.reshape(len(self), -1, 1)
        return (self.recent[:, None, :] == wanted).sum(axis=2).reshape(categories.shape)

    def view(self, items: NDArray[np.integer], rng: np.random.Generator) -> Answers:
        """One video for each session, (S,); sessions that are over, and items of -1, are left as they are."""
        rows = np.flatnonzero(~self.done & (items >= 0))
        points = np.zeros(len(self))
        points[rows] = rng.random(len(rows))
        return self.view_at(items, points)

    def view_at(self, items: NDArray[np.integer], points: NDArray[np.float64]) -> Answers:
        """As `view`, what users do being decided by points in [0, 1) drawn elsewhere, (S,)."""
        rows = np.flatnonzero(~self.done & (items >= 0))
        categories = self.world.category[items]
        p = self.world.watch_p_of(self.users, categories, self.repeats(categories))
        action = np.full(len(self), -1, dtype=np.int8)
        action[rows] = action_at(p[rows], points[rows])
        reward = np.where(action >= 0, REWARDS[action], 0.0)
        self.n_steps[rows] += 1
        self.total_reward += reward
        self.action_counts[rows, action[rows]] += 1
        self.last_action[rows] = action[rows]
        self.recent[rows, :-1] = self.recent[rows, 1:]
        self.recent[rows, -1] = categories[rows]
        self.done |= (action == ENDS_SESSION) | (self.n_steps >= self.world.config.max_steps)
        return Answers(action, reward, self.done.copy())

    def view_slates(self, slates: NDArray[np.integer], rng: np.random.Generator) -> Answers:
        """A slate for each session, (S, K), seen from the top until the session is over; -1 holds no item."""
        steps = [self.view(slates[:, position], rng) for position in range(slates.shape[1])]
        return Answers(
            np.stack([step.action for step in steps], axis=1),
            np.stack([step.reward for step in steps], axis=1),
            np.stack([step.done for step in steps], axis=1),
        )


def play(world: InstaTok, users: NDArray[np.integer], policy: "SessionPolicy", rng: np.random.Generator) -> Sessions:
    """Whole sessions of these users under a policy, (S,)."""
    sessions = Sessions(world, users)
    while not sessions.done.all():
        sessions.view(policy(sessions, rng), rng)
    return sessions


def viewing_seconds(action: NDArray[np.int8], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """How long users looked: a whole video at what they watched or liked, otherwise one to five seconds; any shape.

    Args: action: positions in ACTIONS, -1 for what was not seen, which takes no time. point: uniform in [0, 1).
    """
    seconds = np.where(np.isin(action, SEEN_TO_THE_END), VIDEO_SECONDS, 1 + 4 * point)
    return np.where(action >= 0, seconds, 0.0)
