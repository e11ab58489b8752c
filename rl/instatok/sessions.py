"""Sessions: one video after the other until the user leaves, thousands of them side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from rl.instatok.world import ENDS_SESSION, REWARDS, InstaTok

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
        done: which sessions are over, (S,).
    """

    def __init__(self, world: InstaTok, users: NDArray[np.integer]) -> None:
        self.world = world
        self.users = np.asarray(users)
        self.n_steps = np.zeros(len(users), dtype=np.int64)
        self.total_reward = np.zeros(len(users))
        self.done = np.zeros(len(users), dtype=bool)

    def __len__(self) -> int:
        return len(self.users)

    def view(self, items: NDArray[np.integer], rng: np.random.Generator) -> Answers:
        """One video for each session, (S,); sessions that are over, and items of -1, are left as they are."""
        rows = np.flatnonzero(~self.done & (items >= 0))
        action = np.full(len(self), -1, dtype=np.int8)
        action[rows] = self.world.answer(self.users[rows], items[rows], rng)
        reward = np.where(action >= 0, REWARDS[action], 0.0)
        self.n_steps[rows] += 1
        self.total_reward += reward
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
