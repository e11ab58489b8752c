"""Two-tower policies learned from the log: by regression, by IPS and DR gradients, and by the reward model alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from synthetic_bandit.generator import Bandit, Floats
from torch import Tensor, nn

from rec.crossfit import Rows, cross_fitted, user_folds
from rec.losses import dr, ips
from rec.losses.off_policy import reward_errors

Objective = Literal["ips", "dr", "direct method"]
Kind = Literal["softmax", "greedy", "logistic"]
REWARD_FOLDS: Final = 5
BATCH: Final = 1000
WIDTH: Final = 16


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is learned.

    Attributes: epochs: passes over the log. learning_rate: of AdamW, falling to 0 along a cosine. weight_decay: what a
        step takes off the weights, as AdamW's times its rate. max_weight: cap on importance weights, None for none.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    max_weight: float | None = None


@final
class ContextTowers(nn.Module):
    """A linear tower of the context, and one of action ids: an embedding and a bias."""

    def __init__(self, dim: int, n_actions: int, generator: torch.Generator) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.randn(dim + 1, WIDTH, generator=generator) / (dim + 1) ** 0.5)
        self.action = nn.Parameter(0.1 * torch.randn(WIDTH, n_actions, generator=generator))
        self.bias = nn.Parameter(torch.zeros(n_actions))

    def forward(self, context: Tensor) -> Tensor:
        """(B, D) to logits (B, A)."""
        return self._embedded(context) @ self.action + self.bias

    def of_actions(self, context: Tensor, action: Tensor) -> Tensor:
        """(B, D) and (B,) to the logits of those actions alone, (B,)."""
        return (self._embedded(context) * self.action[:, action].T).sum(dim=1) + self.bias[action]

    def _embedded(self, context: Tensor) -> Tensor:
        constant = context.new_ones((len(context), 1))
        return torch.cat([context, constant], dim=1) @ self.context


# The loss of some rows.
Loss = Callable[[ContextTowers, Tensor], Tensor]


def fit_regression(log: Bandit, settings: Settings, seed: int) -> ContextTowers:
    """A reward model, whose logits order the actions."""
    context, action, reward, _ = _tensors(log)

    def loss(model: ContextTowers, rows: Tensor) -> Tensor:
        return reward_errors(model.of_actions(context[rows], action[rows]), reward[rows], "logistic").mean()

    return _fit(log, loss, settings, seed)


def fit_policy(
    log: Bandit, objective: Objective, settings: Settings, seed: int, q_hat: NDArray[np.float32]
) -> ContextTowers:
    """A policy, the softmax of its logits.

    The direct method is DR without its correction: it ascends the mean over rounds of sum_a p(a) q_hat(a).

    Args: seed: of weights and batches. q_hat: rewards predicted by models that have not seen the row, (n, A); not for
        ips.
    """
    context, action, reward, pscore = _tensors(log)
    predicted = torch.from_numpy(q_hat)
    cap = float("inf") if settings.max_weight is None else settings.max_weight

    def loss(model: ContextTowers, rows: Tensor) -> Tensor:
        logits, shown, earned = model(context[rows]), (action[rows], pscore[rows]), reward[rows]
        if objective == "direct method":
            return -(logits.softmax(dim=1) * predicted[rows]).sum(dim=1).mean()
        if objective == "dr":
            return dr(logits, *shown, earned, predicted[rows], max_weight=cap)
        return ips(logits, *shown, rewards=earned, min_weight=0.0, max_weight=cap, self_normalize=False)

    return _fit(log, loss, settings, seed)


def cross_fitted_rewards(log: Bandit, settings: Settings, seed: int) -> NDArray[np.float32]:
    """Rewards of all actions, of each row by a regression on the other folds of rows, (n, A)."""

    def predicted(others: Rows, own: Rows) -> NDArray[np.float32]:
        model = fit_regression(take(log, others), settings, seed)
        return probabilities(model, log.context[own], kind="logistic").astype(np.float32)

    return cross_fitted(folds_of(log, REWARD_FOLDS, seed=0), predicted)


def weight_kept(log: Bandit, policy: Floats, cap: float | None) -> float:
    """The share of a policy's importance weight on the log, all rows together, that a cap leaves; policy: (n, A)."""
    weights = policy[np.arange(len(log)), log.action] / log.pscore
    return 1.0 if cap is None else float(weights.clip(max=cap).sum() / weights.sum())


def probabilities(model: ContextTowers, context: Floats, *, kind: Kind) -> Floats:
    """A policy, or predicted rewards, on contexts (n, D); (n, A)."""
    with torch.no_grad():
        logits = model(torch.from_numpy(context).float())
        if kind == "greedy":
            return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double().numpy()
        return (logits.softmax(dim=1) if kind == "softmax" else logits.sigmoid()).double().numpy()


def take(log: Bandit, rows: Rows) -> Bandit:
    """Some rounds of a log."""
    return Bandit(*(getattr(log, name)[rows] for name in ("context", "q", "pi_b", "action", "reward", "pscore")))


def folds_of(log: Bandit, n_folds: int, *, seed: int) -> NDArray[np.int64]:
    """The fold of each round; every one is a user of its own."""
    return user_folds(np.arange(len(log)), n_folds, seed=seed)


def _fit(log: Bandit, loss: Loss, settings: Settings, seed: int) -> ContextTowers:
    generator = torch.Generator().manual_seed(seed)
    model = ContextTowers(log.context.shape[1], log.q.shape[1], generator)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay / rate)
    n_batches = len(log) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * n_batches)
    for _ in range(settings.epochs):
        order = torch.randperm(len(log), generator=generator)
        for rows in order[: n_batches * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss(model, rows).backward()
            optimizer.step()
            schedule.step()
    return model


def _tensors(log: Bandit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Context, action, reward and propensity."""
    context, reward, pscore = (torch.from_numpy(values).float() for values in (log.context, log.reward, log.pscore))
    return context, torch.from_numpy(log.action), reward, pscore
