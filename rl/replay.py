"""What sessions brought, kept as columns and drawn by how wrong the values still are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Fields = Mapping[str, NDArray[Any]]

# What is known to be right is drawn now and then, too.
_LEAST_PRIORITY: Final = 1e-3


@final
@dataclass(frozen=True, slots=True)
class Transitions:
    """Steps of sessions, one a row.

    Attributes: seen: before, by name, (n, ...) each. action: (n, ...). reward: (n,). seen_next: after, as `seen`.
        terminated: whether the session ended, (n,).
    """

    seen: Fields
    action: NDArray[Any]
    reward: NDArray[np.float32]
    seen_next: Fields
    terminated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.reward)


@final
class PrioritizedReplay:
    """The latest transitions, drawn with probability P(i) = p_i^alpha / sum_j p_j^alpha, p_i = |TD error| + a little.

    A new one has the highest priority so far. alpha = 0 draws uniformly. What is drawn too often counts less, by
    (N P(i))^-beta over the largest such weight of the batch.

    Source: Schaul et al. (2016), arXiv:1511.05952, equations 1 and section 3.4. Differs from it in: all callers keep
    beta constant, where the paper lets it rise to 1 by the end of training; sums are taken anew for every batch, which
    for a hundred thousand numbers costs less than a tree in Python.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        capacity: int,
        *,
        alpha: float,
        rng: np.random.Generator,
    ) -> None:
        self.capacity, self.alpha, self._rng = capacity, alpha, rng
        self._seen, self._seen_next = (
            {name: _column(space, capacity) for name, space in observation_space.spaces.items()} for _ in range(2)
        )
        self._action = _column(action_space, capacity)
        self._reward = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, np.bool_)
        self._weight = np.zeros(capacity)  # p_i^alpha
        self._highest = 1.0
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, steps: Transitions) -> None:
        """Keeps these, in the place of the oldest ones."""
        rows = (self._next + np.arange(len(steps))) % self.capacity
        for name, column in self._seen.items():
            column[rows] = steps.seen[name]
            self._seen_next[name][rows] = steps.seen_next[name]
        self._action[rows], self._reward[rows], self._terminated[rows] = steps.action, steps.reward, steps.terminated
        self._weight[rows] = self._highest**self.alpha
        self._next = int((self._next + len(steps)) % self.capacity)
        self._size = min(self._size + len(steps), self.capacity)

    def sample(self, n: int, *, beta: float) -> tuple[Transitions, NDArray[np.int64], NDArray[np.float32]]:
        """Draws n with replacement; returns them, their rows for `update`, and the weights of their errors, (n,)."""
        if self.alpha == 0:
            rows, weights = (self._rng.random(n) * self._size).astype(np.int64), np.ones(n)
        else:
            sums = self._weight[: self._size].cumsum()
            rows = np.searchsorted(sums, self._rng.random(n) * sums[-1], side="right").clip(max=self._size - 1)
            weights = (self._weight[rows] / sums[-1] * self._size) ** -beta
        drawn = Transitions(
            {name: column[rows] for name, column in self._seen.items()},
            self._action[rows],
            self._reward[rows],
            {name: column[rows] for name, column in self._seen_next.items()},
            self._terminated[rows],
        )
        return drawn, rows, (weights / weights.max()).astype(np.float32)

    def update(self, rows: NDArray[np.int64], errors: NDArray[np.floating[Any]]) -> None:
        """The absolute TD errors of what was drawn, (n,)."""
        priority = np.abs(errors) + _LEAST_PRIORITY
        self._weight[rows] = priority**self.alpha
        self._highest = max(self._highest, float(priority.max()))


def _column(space: spaces.Space[Any], capacity: int) -> NDArray[Any]:
    return np.zeros((capacity, *(space.shape or ())), space.dtype)
