"""Fitting a candidate generator to the clicked rounds of a log, off-policy."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.data.bandit import BanditLog
from rec.losses import cross_entropy as full_cross_entropy
from rec.losses import ips, two_stage_ips
from two_stage.evaluation import Judge
from two_stage.exact import exact_two_stage_ips
from two_stage.fitting import BATCH_SIZE, Adagrad

EPOCHS: Final = 20
PAPER_WEIGHTS: Final = {"min_weight": 0.01, "max_weight": 10.0, "self_normalize": True, "normalize_over": "clicked"}

# Of logits, actions, propensities, the ranker's logits, and a generator of draws.
Objective = Callable[[Tensor, Tensor, Tensor, Tensor, torch.Generator], Tensor]


def ce(logits: Tensor, actions: Tensor, propensities: Tensor, ranker_logits: Tensor, draws: torch.Generator) -> Tensor:
    """Cross-entropy: the logging policy is not corrected for."""
    return full_cross_entropy(logits, actions)


def one_stage(
    logits: Tensor, actions: Tensor, propensities: Tensor, ranker_logits: Tensor, draws: torch.Generator
) -> Tensor:
    """IPS of the generator alone."""
    return ips(logits, actions, propensities, **PAPER_WEIGHTS)


def two_stage(
    logits: Tensor,
    actions: Tensor,
    propensities: Tensor,
    ranker_logits: Tensor,
    draws: torch.Generator,
    **settings: Any,
) -> Tensor:
    """IPS of generator and ranker together; the released code draws 30 items beside the clicked one."""
    paper = {"n_slates": 100, "slate_size": 31, "slate_temperature": math.e, "alpha": 1e-2, **PAPER_WEIGHTS}
    return two_stage_ips(logits, actions, propensities, ranker_logits, generator=draws, **(paper | settings))


def exact(
    logits: Tensor, actions: Tensor, propensities: Tensor, ranker_logits: Tensor, draws: torch.Generator
) -> Tensor:
    """`two_stage` with the mean over all slates in place of 100 drawn ones; an item may stand in a slate twice."""
    return exact_two_stage_ips(
        logits, actions, propensities, ranker_logits, slate_size=31, slate_temperature=math.e, alpha=1e-2
    )


OBJECTIVES: Final[dict[str, Objective]] = {
    "ce": ce,
    "1-ips": one_stage,
    "2-ips": two_stage,
    "2-ips, 10 slates": partial(two_stage, n_slates=10),
    "2-ips, duplicates kept": partial(two_stage, duplicates="keep"),
    "2-ips, exact": exact,
    "2-ips, alpha 0": partial(two_stage, alpha=0.0),
    "2-ips, alpha .1": partial(two_stage, alpha=0.1),
    "2-ips, temperature 1": partial(two_stage, slate_temperature=1.0),
}


@dataclass(frozen=True, slots=True)
class Clicks:
    """The rounds that were clicked, in the order of the log.

    Attributes:
        context, action: rows and columns of the labels, (n,).
        propensity: (n,).
        ranker_logits: of all items, by context, (B,) to (B, N).
    """

    context: Tensor
    action: Tensor
    propensity: Tensor
    ranker_logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A generator as of its best epoch.

    Attributes:
        epoch: best by its two-stage metric on validation contexts, counted from 1; None where all are used.
        valid: two-stage metrics on validation contexts.
        one_stage, two_stage: metrics on test contexts.
        seconds: of fitting and validation.
    """

    epoch: int | None
    valid: dict[str, float]
    one_stage: dict[str, float]
    two_stage: dict[str, float]
    seconds: float


def clicks_of(log: BanditLog, propensity: NDArray[np.float64], ranker_logits: Callable[[Tensor], Tensor]) -> Clicks:
    """The clicked rounds of a log whose propensities are (n,)."""
    rows = np.flatnonzero(log.reward > 0)
    context, action = torch.from_numpy(log.context[rows]), torch.from_numpy(log.action[rows])
    return Clicks(context, action, torch.from_numpy(propensity[rows]).float(), ranker_logits)


def fit_generator(
    generator: nn.Module,
    clicks: Clicks,
    objective: Objective,
    seed: int,
    valid: Judge,
    test: Judge,
    checked: str,
    epochs: int = EPOCHS,
) -> Fitted:
    """Fits a generator, of contexts (B,) to logits (B, N), and keeps the epoch best by `checked` on `valid`.

    As in the released code the rounds are not shuffled, and what is left after the last whole batch is not used.
    """
    start = time.perf_counter()
    draws = torch.Generator().manual_seed(seed)
    optimize = Adagrad(generator)
    best_epoch, best_valid, best_weights = 0, {checked: -1.0}, {}
    for epoch in range(1, epochs + 1):
        for batch in torch.arange(len(clicks.action) // BATCH_SIZE * BATCH_SIZE).view(-1, BATCH_SIZE):
            context = clicks.context[batch]
            ranker_logits = clicks.ranker_logits(context)
            loss = objective(generator(context), clicks.action[batch], clicks.propensity[batch], ranker_logits, draws)
            optimize.step(loss)
        with torch.no_grad():
            reached = valid.two_stage(generator(valid.users))
        if reached[checked] > best_valid[checked]:
            weights = {name: value.clone() for name, value in generator.state_dict().items()}
            best_epoch, best_valid, best_weights = epoch, reached, weights
    seconds = time.perf_counter() - start
    generator.load_state_dict(best_weights)
    with torch.no_grad():
        scores = generator(test.users)
    return Fitted(best_epoch, best_valid, test.one_stage(scores), test.two_stage(scores), seconds)
