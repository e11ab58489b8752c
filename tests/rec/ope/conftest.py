"""A small world of contexts and actions in which every expectation can be summed up exactly."""

from dataclasses import dataclass

import numpy as np
import pytest

from rec.ope import LoggedActions


@dataclass(frozen=True)
class World:
    """Contexts X drawn uniformly, actions A, rewards Bernoulli(q)."""

    q: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    model: np.ndarray

    @property
    def value(self) -> float:
        """What the target policy is worth."""
        return float((self.target * self.q).sum(axis=1).mean())

    def rounds(self, context: np.ndarray, action: np.ndarray, reward: np.ndarray, **more) -> LoggedActions:
        return LoggedActions(
            rewards=reward,
            propensities=self.logging[context, action],
            target_p=self.target[context, action],
            q_logged=self.model[context, action],
            q_target=(self.target * self.model).sum(axis=1)[context],
            **more,
        )

    def every_outcome(self) -> tuple[LoggedActions, np.ndarray]:
        """One row for each context, action and reward, and how probable each is in the log."""
        n_contexts, n_actions = self.q.shape
        context, action, reward = (
            a.reshape(-1) for a in np.meshgrid(np.arange(n_contexts), np.arange(n_actions), [0.0, 1.0], indexing="ij")
        )
        q = self.q[context, action]
        probability = self.logging[context, action] * np.where(reward == 1, q, 1 - q) / n_contexts
        return self.rounds(context, action, reward), probability

    def sample(self, n: int, rng: np.random.Generator, rows_per_user: int = 1) -> LoggedActions:
        """A log in which a user keeps one context, so that rows of a user depend on each other."""
        users = np.repeat(np.arange(n // rows_per_user), rows_per_user)
        context = rng.integers(0, len(self.q), n // rows_per_user)[users]
        action = (rng.random(n)[:, None] > self.logging[context].cumsum(axis=1)).sum(axis=1)
        reward = (rng.random(n) < self.q[context, action]).astype(float)
        return self.rounds(context, action, reward, clusters=users if rows_per_user > 1 else None)


@pytest.fixture(scope="session")
def world() -> World:
    rng = np.random.default_rng(7)
    q = rng.uniform(0.05, 0.95, (6, 4))
    logging = rng.dirichlet(np.full(4, 3.0), 6) * 0.8 + 0.05
    target = rng.dirichlet(np.full(4, 1.0), 6)
    return World(q, logging, target, np.clip(q + rng.normal(0, 0.15, q.shape), 0, 1))
