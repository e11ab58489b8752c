"""The log that generators learn from, and the ranker that stands behind them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.data.bandit import BanditLog, PropensityKind, bandit_log, propensities
from two_stage.fitting import fit_pairs, new_model
from two_stage.models import Generator, Ranker, load_released
from two_stage.movielens import MovieLens
from two_stage.simulation import Simulation

ITEMS_PER_USER: Final = 5
POLICY_PAIRS, POLICY_EPOCHS = 10_000, 40
RANKER_EPOCHS: Final = 10


@dataclass(frozen=True, slots=True)
class World:
    """All that does not depend on the log.

    Attributes:
        data, simulation: users, items, and who likes what.
        policy_logits: of the logging policy, float32, (U, N).
        ranker: None where one is learned from each log.
    """

    data: MovieLens
    simulation: Simulation
    policy_logits: NDArray[np.float32]
    ranker: Ranker | None


@dataclass(frozen=True, slots=True)
class Logged:
    """One log, and the ranker's logits that go with it.

    Attributes:
        log: rounds of all users, liked or not.
        propensity: as the experiment uses it, (n,).
        ranker_queries, ranker_items: factors of the ranker's logits at each user's mean time, (U, 20) and (N, 20).
        clicked: what was drawn and liked, (U, N).
    """

    log: BanditLog
    propensity: NDArray[np.float64]
    ranker_queries: Tensor
    ranker_items: Tensor
    clicked: NDArray[np.bool_]

    def ranker_logits(self, users: Tensor) -> Tensor:
        """(B,) to (B, N)."""
        return self.ranker_queries[users] @ self.ranker_items.T


@torch.no_grad()
def policy_logits(policy: Generator, data: MovieLens) -> NDArray[np.float32]:
    """Of all users and items, (U, N)."""
    return policy(torch.arange(data.n_users)).numpy()


def released_policy(data: MovieLens, folder: Path) -> Generator:
    """The logging policy the authors released."""
    policy = Generator(data)
    load_released(policy, folder / "logging_policy.pt")
    return policy


def released_ranker(data: MovieLens, folder: Path) -> Ranker:
    """The ranker the authors released."""
    ranker = Ranker(data)
    load_released(ranker, folder / "ranker.pt")
    return ranker


def own_policy(data: MovieLens, simulation: Simulation, seed: int) -> Generator:
    """A logging policy fitted to the labels of random pairs."""
    rng = np.random.default_rng([seed, 1])
    pair = rng.choice(simulation.label.size, POLICY_PAIRS, replace=False)
    user, item = np.divmod(pair, data.n_items)
    policy = new_model(Generator, data, seed)
    inputs = (torch.from_numpy(user), torch.from_numpy(item))
    liked = torch.from_numpy(simulation.label[user, item]).float()
    for _ in fit_pairs(policy.pairs, policy, inputs, liked, epochs=POLICY_EPOCHS, rng=rng):
        pass
    return policy.eval()


def draw_log(world: World, seed: int, kind: PropensityKind) -> Logged:
    """The log of a seed, with the world's ranker or one fitted to it."""
    label = world.simulation.label
    log = bandit_log(world.policy_logits, label, k=ITEMS_PER_USER, rng=np.random.default_rng([seed, 2]))
    ranker = world.ranker or _own_ranker(world, log, seed)
    clicked = np.zeros_like(label)
    liked = log.reward > 0
    clicked[log.context[liked], log.action[liked]] = True
    with torch.no_grad():
        mean_time = torch.from_numpy(world.simulation.mean_time)
        queries, items = ranker.queries(torch.arange(world.data.n_users), mean_time), ranker.items()
    return Logged(log, propensities(log, world.policy_logits, kind), queries, items, clicked)


def _own_ranker(world: World, log: BanditLog, seed: int) -> Ranker:
    ranker = new_model(Ranker, world.data, seed)
    time = world.simulation.time[log.context, log.action]
    inputs = tuple(torch.from_numpy(part) for part in (log.context, log.action, time))
    liked = torch.from_numpy(log.reward).float()
    for _ in fit_pairs(ranker.pairs, ranker, inputs, liked, epochs=RANKER_EPOCHS, rng=None):
        pass
    return ranker.eval()
