"""Two-tower policies learned from the log: by regression, by IPS and by DR gradients, settings chosen off-policy."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from synthetic_bandit.generator import Bandit, Floats
from torch import Tensor, nn

from rec.crossfit import user_folds
from rec.losses import dr, ips, regression
from rec.ope import IntervalSettings, LoggedActions, OverlapWarning, evaluate
from rec.ope.support import MIN_ESS

Objective = Literal["regression", "ips", "dr"]
OBJECTIVES: Final[tuple[Objective, ...]] = ("regression", "ips", "dr")
REWARD_FOLDS: Final = 5
VALIDATION_FOLDS: Final = 3
REWARDS: Final = IntervalSettings(reward_range=(0.0, 1.0))
BATCH: Final = 500
WIDTH: Final = 16


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """How a policy is learned.

    Attributes: epochs: passes over the log. learning_rate: of AdamW, falling to 0 along a cosine. weight_decay: what a
        step takes off the weights, as AdamW's times its rate. max_weight: cap on importance weights, None for none.
    """

    epochs: int = 30
    learning_rate: float = 0.03
    weight_decay: float = 1e-3
    max_weight: float | None = None


# In DR a small cap leaves most to the reward model, and takes the log's word only on what it gets wrong throughout.
GRIDS: Final[dict[Objective, tuple[Settings, ...]]] = {
    "regression": tuple(Settings(weight_decay=decay) for decay in (1e-4, 1e-3, 1e-2)),
    "ips": tuple(Settings(epochs, max_weight=cap) for epochs in (10, 30) for cap in (10.0, None)),
    "dr": tuple(Settings(epochs, max_weight=cap) for epochs in (10, 30) for cap in (0.1, 0.3, 1.0, 3.0, None)),
}


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
        constant = context.new_ones((len(context), 1))
        return torch.cat([context, constant], dim=1) @ self.context @ self.action + self.bias


def fit(
    log: Bandit, objective: Objective, settings: Settings, seed: int, reward_models: Sequence[ContextTowers] = ()
) -> ContextTowers:
    """One policy, or for `regression` a reward model whose logits order the actions.

    Args: seed: of weights and batches. reward_models: for dr, of each fold of rows, fitted on the others.
    """
    generator = torch.Generator().manual_seed(seed)
    model = ContextTowers(log.context.shape[1], log.q.shape[1], generator)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=settings.weight_decay / rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * (len(log) // BATCH))
    context, action, reward, pscore = tensors(log)
    folds = torch.from_numpy(folds_of(log))
    cap = float("inf") if settings.max_weight is None else settings.max_weight
    for _ in range(settings.epochs):
        order = torch.randperm(len(log), generator=generator)
        for rows in order[: len(log) // BATCH * BATCH].split(BATCH):
            logits, shown = model(context[rows]), (action[rows], pscore[rows])
            if objective == "regression":
                loss = regression(logits, action[rows], reward[rows], error="logistic")
            elif objective == "ips":
                given = {"min_weight": 0.0, "max_weight": cap, "self_normalize": False}
                loss = ips(logits, *shown, rewards=reward[rows], **given)
            else:
                q_hat = _predicted(reward_models, context[rows], folds[rows])
                loss = dr(logits, *shown, reward[rows], q_hat, max_weight=cap)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def fit_reward_models(log: Bandit, settings: Settings, seed: int) -> list[ContextTowers]:
    """A regression for each fold of rows, fitted on the others."""
    folds = folds_of(log)
    return [fit(take(log, folds != fold), "regression", settings, seed) for fold in range(REWARD_FOLDS)]


def fit_objective(log: Bandit, objective: Objective, settings: dict[Objective, Settings], seed: int) -> ContextTowers:
    """One policy with the settings chosen for it; DR's reward models have those chosen for the regression."""
    models = fit_reward_models(log, settings["regression"], seed) if objective == "dr" else []
    return fit(log, objective, settings[objective], seed, models)


def choose(
    log: Bandit, objective: Objective, chosen: dict[Objective, Settings], grid: Sequence[Settings], seed: int
) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings of the highest lower bound on a third of the log, learned on the other two thirds.

    The bound is the lower end of a 95% interval: of the doubly robust estimate where the effective sample size is
    MIN_ESS or more; where it is less, that interval is too narrow, and the one of `dr_os`, which allows for what was
    not drawn, takes its place. Rewards are predicted by a regression on the two thirds. The policy is the greedy one
    for the regression, the softmax for the others.

    Returns: the settings, and the estimates of all.
    """
    validation = folds_of(log, VALIDATION_FOLDS) == 0
    learn, held_out = take(log, ~validation), take(log, validation)
    reward_model = fit(learn, "regression", chosen.get("regression", Settings()), seed)
    models = fit_reward_models(learn, chosen["regression"], seed) if objective == "dr" else []
    q_hat = probabilities(reward_model, held_out.context, kind="logistic")
    told = []
    for settings in grid:
        model = fit(learn, objective, settings, seed, models)
        policy = probabilities(model, held_out.context, kind="greedy" if objective == "regression" else "softmax")
        estimate = off_policy_estimate(held_out, policy, q_hat)
        told.append({"objective": objective, **asdict(settings), **estimate})
    best = int(np.argmax([row["low"] for row in told]))
    return grid[best], told


def probabilities(model: ContextTowers, context: Floats, *, kind: Literal["softmax", "greedy", "logistic"]) -> Floats:
    """A policy, or predicted rewards, on contexts (n, D); (n, A)."""
    with torch.no_grad():
        logits = model(torch.from_numpy(context).float())
        if kind == "greedy":
            return torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double().numpy()
        return (logits.softmax(dim=1) if kind == "softmax" else logits.sigmoid()).double().numpy()


def take(log: Bandit, rows: NDArray[np.bool_]) -> Bandit:
    """Some rounds of a log."""
    return Bandit(*(getattr(log, name)[rows] for name in ("context", "q", "pi_b", "action", "reward", "pscore")))


def folds_of(log: Bandit, n_folds: int = REWARD_FOLDS) -> NDArray[np.int64]:
    """Every round is a user of its own."""
    return user_folds(np.arange(len(log)), n_folds)


def tensors(log: Bandit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Context, action, reward and propensity."""
    context, reward, pscore = (torch.from_numpy(values).float() for values in (log.context, log.reward, log.pscore))
    return context, torch.from_numpy(log.action), reward, pscore


def _predicted(models: Sequence[ContextTowers], context: Tensor, folds: Tensor) -> Tensor:
    with torch.no_grad():
        q_hat = context.new_empty((len(context), len(models[0].bias)))
        for fold, model in enumerate(models):
            own = folds == fold
            q_hat[own] = model(context[own]).sigmoid()
    return q_hat


def off_policy_estimate(log: Bandit, policy: Floats, q_hat: Floats) -> dict[str, float | str | None]:
    """What a log says of a policy, (n, A), with predicted rewards, (n, A), and an interval that can be trusted."""
    rows = np.arange(len(log))
    logged = LoggedActions(
        rewards=log.reward,
        propensities=log.pscore,
        target_p=policy[rows, log.action],
        q_logged=q_hat[rows, log.action],
        q_target=(policy * q_hat).sum(axis=1),
    )
    with warnings.catch_warnings():
        # What they say is in the answer, and decides which estimator is asked.
        warnings.simplefilter("ignore", OverlapWarning)
        told = evaluate(logged, ["dr", "dr_os"], rng=np.random.default_rng(0), interval=REWARDS)
    found = told["dr" if told["dr"].ess >= MIN_ESS else "dr_os"]
    assert found.interval is not None
    return {
        "estimator": found.estimator,
        "estimate": found.value,
        "std_error": found.std_error,
        "low": found.interval.low,
        "high": found.interval.high,
        "ess": found.ess,
        "n": found.n,
    }
