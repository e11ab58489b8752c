"""DRR: what a user liked lately becomes a state, an actor makes it a ranking vector, a critic says what that is worth.

Source: Liu et al. (2018), arXiv:1810.12027, section 4.1. k is the dimension of user and item vectors, n the length of
the history; -none- in a history is the number of items, N, whose vector is zero.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.config.drr import DRRNetworkConfig, StateKind
from rec.errors import ConfigError
from rec.models.tower import mlp

BOUND: Final = 0.9
FIRST_SLOPE: Final = 0.5


def drr_p(user: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """[i_1, ..., i_n, {w_a i_a * w_b i_b: a < b}]. Shapes: (B, k), (B, n, k), (n,) -> (B, nk + n(n-1)/2 k)."""
    return torch.cat([items, _pairs(items, weights)], dim=1).flatten(1)


def drr_u(user: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """[{u * w_a i_a}, {w_a i_a * w_b i_b: a < b}]. Shapes: as drr_p."""
    return torch.cat([user[:, None] * weights[:, None] * items, _pairs(items, weights)], dim=1).flatten(1)


def drr_ave(user: Tensor, items: Tensor, weights: Tensor) -> Tensor:
    """[u, u * g, g] with g = mean of w_a i_a. Shapes: (B, k), (B, n, k), (n,) -> (B, 3k)."""
    average = (weights[:, None] * items).mean(dim=1)
    return torch.cat([user, user * average, average], dim=1)


STATES: Final[dict[StateKind, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {"p": drr_p, "u": drr_u, "ave": drr_ave}


def state_dim(kind: StateKind, n: int, k: int) -> int:
    """How many numbers a state has."""
    return 3 * k if kind == "ave" else n * k + n * (n - 1) // 2 * k


def balanced(user_vectors: NDArray[np.floating], item_vectors: NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """The same products up to one factor, with user vectors within what tanh reaches: at most .9 in each dimension.

    Args: user_vectors, item_vectors: (U, k) and (N, k).   Returns: (U, k) and (N, k), float32.
    """
    largest = np.abs(user_vectors).max(axis=0)
    largest[largest == 0] = 1.0
    users, items = user_vectors / largest * BOUND, item_vectors * largest
    return torch.from_numpy(users.astype(np.float32)), torch.from_numpy(items.astype(np.float32))


@final
class DRRState(nn.Module):
    """User and history as a state; the weights of the positions are learned with the network that reads it.

    The vectors are no part of `state_dict`: whoever restores the weights builds the network with the same vectors.

    Args: user_vectors, item_vectors: fixed, (U, k) and (N, k). config: which state, of how many items.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor, config: DRRNetworkConfig) -> None:
        super().__init__()
        if user_vectors.shape[1] != item_vectors.shape[1]:
            raise ConfigError(
                f"vectors of users and items have to be of one length; found {user_vectors.shape[1]} and "
                f"{item_vectors.shape[1]}"
            )
        none = item_vectors.new_zeros(1, item_vectors.shape[1])
        self.users = nn.Buffer(user_vectors, persistent=False)
        self.items = nn.Buffer(torch.cat([item_vectors, none]), persistent=False)
        self.weights = nn.Parameter(torch.ones(config.history_length))
        self.dim = state_dim(config.state, config.history_length, user_vectors.shape[1])
        self._represent = STATES[config.state]

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """Positions of users and of liked items, oldest first, (B,) and (B, n), to (B, dim)."""
        return self._represent(self.users[user], self.items[history], self.weights)


@final
class DRRActor(nn.Module):
    """pi(s): a state as the ranking vector, by two ReLU layers and tanh, (B, k).

    Args: user_vectors, item_vectors: (U, k) and (N, k), the users' within (-1, 1); see `balanced`. config: sizes.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor, config: DRRNetworkConfig) -> None:
        super().__init__()
        self.state = DRRState(user_vectors, item_vectors, config)
        self.layers = mlp([self.state.dim, config.hidden, config.hidden, user_vectors.shape[1]])
        self._from_user = config.start == "user"
        if self._from_user:
            _silence(self.layers)

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """Positions of users and of liked items, (B,) and (B, n), to ranking vectors in (-1, 1), (B, k)."""
        raw = self.layers(self.state(user, history))
        if self._from_user:
            raw = raw + torch.atanh(self.state.users[user])
        return torch.tanh(raw)


@final
class DRRCritic(nn.Module):
    """Q(s, a): what a ranking vector is worth in a state, by two ReLU layers, (B,).

    Its state has weights of positions of its own, as the two losses are minimised apart. Where the actor starts from
    the user's vector, the critic starts from a multiple of the user's product with the action, which is learned.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor, config: DRRNetworkConfig) -> None:
        super().__init__()
        self.state = DRRState(user_vectors, item_vectors, config)
        self.layers = mlp([self.state.dim + user_vectors.shape[1], config.hidden, config.hidden, 1])
        self.slope = nn.Parameter(torch.tensor(FIRST_SLOPE)) if config.start == "user" else None
        if self.slope is not None:
            _silence(self.layers)

    def forward(self, user: Tensor, history: Tensor, action: Tensor) -> Tensor:
        """Positions of users and of liked items, (B,) and (B, n), and ranking vectors (B, k), to values (B,)."""
        value = self.layers(torch.cat([self.state(user, history), action], dim=1)).squeeze(-1)
        if self.slope is None:
            return value
        return value + self.slope * (self.state.users[user] * action).sum(dim=1)


def _silence(layers: nn.Sequential) -> None:
    """Sets the last layer to zero, so that at first it adds nothing."""
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _pairs(items: Tensor, weights: Tensor) -> Tensor:
    """w_a i_a * w_b i_b for a < b, (B, n(n-1)/2, k)."""
    weighted = weights[:, None] * items
    first, second = zip(*combinations(range(items.shape[1]), 2), strict=True) if items.shape[1] > 1 else ((), ())
    return weighted[:, list(first)] * weighted[:, list(second)]
