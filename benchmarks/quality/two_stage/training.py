"""Fitting a candidate generator to the clicked rounds of a log, off-policy."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from rec.losses import cross_entropy as full_cross_entropy
from rec.losses import ips, two_stage_ips
from two_stage.evaluation import Judge
from two_stage.fitting import BATCH_SIZE, new_model, optimizer
from two_stage.logged import Logged, World
from two_stage.models import Generator

EPOCHS: Final = 20
N_VALID_USERS: Final = 2000
CHECKED: Final = "precision@10"
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


OBJECTIVES: Final[dict[str, Objective]] = {"ce": ce, "1-ips": one_stage, "2-ips": two_stage}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A generator as of its best epoch.

    Attributes:
        epoch: best by two-stage CHECKED on validation users, counted from 1.
        valid, one_stage, two_stage: metrics; the latter two on test users.
        seconds: of fitting and validation.
    """

    epoch: int
    valid: dict[str, float]
    one_stage: dict[str, float]
    two_stage: dict[str, float]
    seconds: float


def fit_generator(world: World, logged: Logged, objective: Objective, seed: int, valid: Judge, test: Judge) -> Fitted:
    """Fits on the clicked rounds of all users, in the order of the log, and keeps the best epoch.

    As in the released code the rounds are not shuffled, and what is left after the last whole batch is not used.
    """
    start = time.perf_counter()
    clicks = np.flatnonzero(logged.log.reward > 0)
    user, action = torch.from_numpy(logged.log.context[clicks]), torch.from_numpy(logged.log.action[clicks])
    propensity = torch.from_numpy(logged.propensity[clicks]).float()
    generator = new_model(Generator, world.data, seed)
    draws = torch.Generator().manual_seed(seed)
    optimize = optimizer(generator)
    best_epoch, best_valid, best_weights = 0, {CHECKED: -1.0}, {}
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.arange(len(clicks) // BATCH_SIZE * BATCH_SIZE).view(-1, BATCH_SIZE):
            logits = generator(user[batch])
            ranker_logits = logged.ranker_logits(user[batch])
            loss = objective(logits, action[batch], propensity[batch], ranker_logits, draws)
            optimize.zero_grad()
            loss.backward()
            optimize.step()
        with torch.no_grad():
            reached = valid.two_stage(generator(valid.users))
        if reached[CHECKED] > best_valid[CHECKED]:
            weights = {name: value.clone() for name, value in generator.state_dict().items()}
            best_epoch, best_valid, best_weights = epoch, reached, weights
    seconds = time.perf_counter() - start
    generator.load_state_dict(best_weights)
    with torch.no_grad():
        scores = generator(test.users)
    return Fitted(best_epoch, best_valid, test.one_stage(scores), test.two_stage(scores), seconds)
