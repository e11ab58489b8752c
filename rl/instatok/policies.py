"""Ways to choose the next video: those that know nothing, and those that know the hidden interests."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rl.instatok.sessions import Sessions


class SessionPolicy(Protocol):
    """Chooses the next video of every session, (S,), also of those that are over."""

    def __call__(self, sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
        """Catalogue positions, (S,)."""
        ...


def uniform(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
    """Any video of the catalogue."""
    return rng.integers(0, sessions.world.n_items, len(sessions))


def always(category: NDArray[np.integer]) -> SessionPolicy:
    """A random video of one category per user, (U,)."""

    def policy(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
        return sessions.world.random_video_of(category[sessions.users], rng)

    return policy


def first_interest(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
    """A random video of the user's first interest, whatever the region dislikes; knows the hidden interests."""
    return always(sessions.world.interests[:, 0])(sessions, rng)


def best_category(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
    """A random video of the category the user watches most: the ceiling; knows the hidden interests."""
    return always(sessions.world.watch_p.argmax(axis=1))(sessions, rng)


def best_of_random(n_candidates: int) -> SessionPolicy:
    """The best of a few random videos, drawn anew at every step: the ceiling behind a poor retriever."""

    def policy(sessions: Sessions, rng: np.random.Generator) -> NDArray[np.integer]:
        world = sessions.world
        candidates = rng.integers(0, world.n_items, (len(sessions), n_candidates))
        value = world.watch_p[sessions.users[:, None], world.category[candidates]]
        return candidates[np.arange(len(sessions)), value.argmax(axis=1)]

    return policy
