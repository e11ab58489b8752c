"""The exact expected reward of a session, where the policy is the same at every step."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rec.errors import ConfigError
from rl.instatok.world import CATEGORIES, REWARDS, InstaTok


@final
@dataclass(frozen=True, slots=True)
class SessionValue:
    """Expected reward and number of videos of one session; both of the shape asked for."""

    reward: NDArray[np.float64]
    steps: NDArray[np.float64]


def session_value(watch_p: ArrayLike, max_steps: int) -> SessionValue:
    """A session in which every step is watched with the same probability p, in closed form.

    The other three actions have (1 - p) / 3 each, one of which ends the session, e. A step is reached with
    probability (1 - e)^t, so steps = (1 - (1 - e)^T) / e, and reward = steps * E[reward of a step].

    Args: watch_p: p < 1, any shape. max_steps: T.
    """
    p = np.asarray(watch_p, dtype=np.float64)
    each_other = (1 - p) / (len(REWARDS) - 1)
    step_reward = p * REWARDS[0] + each_other * REWARDS[1:].sum()
    steps = (1 - (1 - each_other) ** max_steps) / each_other
    return SessionValue(step_reward * steps, steps)


def true_value(world: InstaTok, share: NDArray[np.float64] | None = None) -> SessionValue:
    """What a session is worth to each user, exactly.

    Rewards and endings are linear in the watch probability and moods are fresh at every step, so a policy that draws
    its category at every step is worth as much as one whose watch probability is the mean.

    Args: share: how often the policy shows each category, rows sum to 1, (U, C) or (C,). None: always the same one.
    Returns: (U,) under `share`; without it (U, C), one for every category.
    Raises: ConfigError: where users tire, as steps then depend on each other; see `rl.instatok.planning`.
    """
    _refuse_fatigue(world)
    p = world.watch_p if share is None else (world.watch_p * share).sum(axis=1)
    return session_value(p, world.config.max_steps)


def slate_value(world: InstaTok, users: NDArray[np.integer], slates: NDArray[np.integer]) -> NDArray[np.float64]:
    """What users earn on average from one slate, seen from the top until they leave, exactly.

    The item at k is reached where no item above it ended the session, each with (1 - p) / 3, and is worth what
    `session_value` says of a session of one step.

    Args: users: (S,). slates: positions in the catalogue, -1 after the end, (S, K).
    Returns: (S,).   Raises: ConfigError: where users tire, as `true_value`.
    """
    _refuse_fatigue(world)
    watch_p = world.watch_p[users[:, None], world.category[slates]]
    stays = np.cumprod(1 - (1 - watch_p) / (len(REWARDS) - 1), axis=1)
    reached = np.concatenate([np.ones((len(slates), 1)), stays[:, :-1]], axis=1)
    return (reached * session_value(watch_p, 1).reward * (slates >= 0)).sum(axis=1)


def only(category: NDArray[np.integer]) -> NDArray[np.float64]:
    """The share of a policy that shows each user one category; (U,) to (U, C)."""
    return np.eye(len(CATEGORIES))[category]


def best_of_random_share(world: InstaTok, n_candidates: int) -> NDArray[np.float64]:
    """How often the best of n random videos is of each category, (U, C).

    With categories in ascending order of value and F the share of the catalogue up to each, the best is of the j-th
    with probability F_j^n - F_(j-1)^n. Between categories of equal value the split does not change the reward.
    """
    order = world.watch_p.argsort(axis=1)
    up_to = np.minimum(world.category_share()[order].cumsum(axis=1), 1.0) ** n_candidates
    share = np.zeros_like(world.watch_p)
    np.put_along_axis(share, order, np.diff(up_to, axis=1, prepend=0.0), axis=1)
    return share


def _refuse_fatigue(world: InstaTok) -> None:
    if world.fatigued_p is not None:
        raise ConfigError("has no value of this form under fatigue; plan instead", field="dynamics")
