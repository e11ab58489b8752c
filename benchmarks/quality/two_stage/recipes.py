"""Every way to obtain a generator, and perhaps a ranker, from one log of MovieLens."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from two_stage.evaluation import Judge
from two_stage.fitting import fit_pairs, new_model
from two_stage.logged import Logged, World
from two_stage.models import Generator
from two_stage.training import EPOCHS, OBJECTIVES, Fitted, Objective, clicks_of, fit_generator

N_VALID_USERS: Final = 2000
CHECKED: Final = "precision@10"

# Powers of 1 / (N propensity) that weigh rounds, and weight decays; chosen on the validation users of one log; which
# one, and among what, is not recorded.
N_MEMBERS: Final = 5
MEMBER_EPOCHS: Final = 10
MAX_WEIGHT: Final = 10.0
GENERATOR_POWER, GENERATOR_DECAY = 0.5, 1e-3
RANKER_POWER, RANKER_DECAY = 0.25, 1e-4

# Of world, log, seed, and judges of validation and test users.
Recipe = Callable[[World, Logged, int, Judge, Judge], Fitted]


def policy_gradient(
    world: World,
    logged: Logged,
    seed: int,
    valid: Judge,
    test: Judge,
    *,
    objective: Objective,
    epochs: int = EPOCHS,
) -> Fitted:
    """A generator fitted to the clicked rounds, as in the paper."""
    clicks = clicks_of(logged.log, logged.propensity, logged.ranker_logits)
    generator = new_model(Generator, world.data, seed)
    return fit_generator(generator, clicks, objective, seed, valid, test, CHECKED, epochs)


def weighted_likes(
    world: World,
    logged: Logged,
    seed: int,
    valid: Judge,
    test: Judge,
    *,
    rank: bool = False,
    power: float = GENERATOR_POWER,
    n_members: int = N_MEMBERS,
) -> Fitted:
    """A generator fitted to all rounds, liked or not, by weighted cross-entropy: the mean of several members.

    Weighted by 1 / propensity the error is that of a uniform policy, where items the log rarely shows count as much as
    others; a power below one and averaging keep the variance at bay. A sum of two-tower models is a wider one.

    Args: rank: whether the ranker is replaced by one learned in the same way, too. power: of 1 / (N propensity), the
        generator's weights; 0: all rounds alike. n_members: of the generator's mean.
    """
    start = time.perf_counter()
    scores = partial(_scores, world, logged, seed)
    on_valid, on_test = scores(power, GENERATOR_DECAY, (valid.users, test.users), range(n_members))
    if rank:
        others = range(N_MEMBERS, 2 * N_MEMBERS)
        ranked = scores(RANKER_POWER, RANKER_DECAY, (valid.users, test.users), others)
        valid, test = (replace(judge, ranker_logits=part) for judge, part in zip((valid, test), ranked, strict=True))
    seconds = time.perf_counter() - start
    return Fitted(None, valid.two_stage(on_valid), test.one_stage(on_test), test.two_stage(on_test), seconds)


def _scores(
    world: World,
    logged: Logged,
    seed: int,
    power: float,
    decay: float,
    users: tuple[Tensor, ...],
    members: range,
) -> list[Tensor]:
    """Mean logits of some members for each group of users, (B, N) each."""
    log = logged.log
    weight = np.minimum((1 / (world.data.n_items * logged.propensity)) ** power, MAX_WEIGHT)
    inputs = (torch.from_numpy(log.context), torch.from_numpy(log.action))
    liked, weights = torch.from_numpy(log.reward).float(), torch.from_numpy(weight / weight.mean()).float()
    total = [torch.zeros(len(part), world.data.n_items) for part in users]
    for member in members:
        member_seed = 1000 * (seed + 1) + member
        model = new_model(Generator, world.data, member_seed)
        rng = np.random.default_rng(member_seed)
        steps = fit_pairs(
            model.pairs, model, inputs, liked, epochs=MEMBER_EPOCHS, rng=rng, weight=weights, weight_decay=decay
        )
        for _ in steps:
            pass
        with torch.no_grad():
            for mean, part in zip(total, users, strict=True):
                mean += model(part) / len(members)
    return total


RECIPES: Final[dict[str, Recipe]] = {
    **{name: partial(policy_gradient, objective=objective) for name, objective in OBJECTIVES.items()},
    "weighted likes": weighted_likes,
    "weighted likes, power 0": partial(weighted_likes, power=0.0),
    "weighted likes, one member": partial(weighted_likes, n_members=1),
    "weighted likes, power 0, one member": partial(weighted_likes, power=0.0, n_members=1),
    "weighted likes, ranker too": partial(weighted_likes, rank=True),
}
