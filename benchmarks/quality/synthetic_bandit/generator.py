"""The synthetic bandit log of Open Bandit Pipeline, as its version 0.5.5 draws it.

Contexts are normal. The reward of an action is Bernoulli with the logistic of a bilinear form of context and one-hot
action, standardised over the whole batch: (x - mean) / std. (The library's later master computes x - mean / std, which
is another world.) The logging policy is a softmax of beta times the expected reward, so a negative beta prefers what
earns little. Draw for draw the same as SyntheticBanditDataset, so that published figures can be compared.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Value of the uniform policy on the test part of the published setting.
UNIFORM_VALUE: Final = 0.499925


@final
@dataclass(frozen=True, slots=True)
class Bandit:
    """n rounds of a log, and what every action would have earned.

    Attributes:
        context: (n, D). q: expected rewards, (n, A). pi_b: the logging policy, (n, A). action, reward, pscore: (n,).
    """

    context: Floats
    q: Floats
    pi_b: Floats
    action: NDArray[np.int64]
    reward: Floats
    pscore: Floats

    def __len__(self) -> int:
        return len(self.action)

    def value(self, policy: Floats) -> float:
        """The exact value of a policy, (n, A), on these contexts."""
        return float((policy * self.q).sum(axis=1).mean())


def generate(
    n_train: int, n_test: int, *, n_actions: int = 10, dim: int = 5, beta: float = -2.0, seed: int = 12345
) -> tuple[Bandit, Bandit]:
    """The training and the test part."""
    random = np.random.RandomState(seed)
    train, test = (_batch(n, n_actions, dim, beta, seed, random) for n in (n_train, n_test))
    return train, test


def _batch(n: int, n_actions: int, dim: int, beta: float, seed: int, random: np.random.RandomState) -> Bandit:
    context = random.normal(size=(n, dim))
    q = 1 / (1 + np.exp(-_reward_logits(context, n_actions, np.random.RandomState(seed))))
    weight = np.exp(beta * (q - q.max(axis=1, keepdims=True)))
    pi_b = weight / weight.sum(axis=1, keepdims=True)
    action = (pi_b.cumsum(axis=1) > np.random.RandomState(seed).uniform(size=n)[:, None]).argmax(axis=1)
    rows = np.arange(n)
    reward = random.binomial(1, q[rows, action]).astype(np.float64)
    return Bandit(context, q, pi_b, action, reward, pi_b[rows, action])


def _reward_logits(context: Floats, n_actions: int, random: np.random.RandomState) -> Floats:
    """theta_x x + theta_a a + x M a over x = (1, context) and a = (1, one-hot), standardised; (n, A)."""
    x = np.column_stack([np.ones(len(context)), context])
    n_a = n_actions + 1
    theta_x, theta_a = random.uniform(-1, 1, x.shape[1]), random.uniform(-1, 1, n_a)
    form = random.uniform(-1, 1, (x.shape[1], n_a))
    by_context = x @ theta_x + x @ form[:, 0] + theta_a[0]
    logits = by_context[:, None] + theta_a[1:] + x @ form[:, 1:]
    return (logits - logits.mean()) / logits.std()
