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

    With `correction="weights"` it is tanh of w1 atanh(u) + w2 b + w3 g, where b is the last dimension of atanh(u), the
    items' bias, u the rest, and g the average liked item without it: at first (1, 1, 0), the user's vector.

    Args: user_vectors, item_vectors: (U, k) and (N, k), the users' within (-1, 1); see `balanced`. config: sizes.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor, config: DRRNetworkConfig) -> None:
        super().__init__()
        self.state = DRRState(user_vectors, item_vectors, config)
        self._from_user = config.start == "user"
        self.part_weights = None
        if config.correction == "weights":
            self.part_weights = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))
            return
        self.layers = mlp([self.state.dim, config.hidden, config.hidden, user_vectors.shape[1]])
        if self._from_user:
            _silence(self.layers)

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """Positions of users and of liked items, (B,) and (B, n), to ranking vectors in (-1, 1), (B, k)."""
        state = self.state(user, history)
        if self.part_weights is not None:
            _, _, average = state.chunk(3, dim=1)
            parts = _parts(torch.atanh(self.state.users[user]), average)
            return torch.tanh((self.part_weights[:, None] * parts).sum(dim=1))
        raw = self.layers(state)
        if self._from_user:
            raw = raw + torch.atanh(self.state.users[user])
        return torch.tanh(raw)


@final
class DRRCritic(nn.Module):
    """Q(s, a): what a ranking vector is worth in a state, by two ReLU layers, (B,).

    Its state has weights of positions of its own, as the two losses are minimised apart. Where the actor starts from
    the user's vector, the critic starts from a multiple of the user's product with the action, which is learned. With
    `correction="weights"` the layers read the state alone, and the action counts by its products with what the actor
    weighs: Q = V(s) + s1 u . a + s2 b . a + s3 g . a.
    """

    def __init__(self, user_vectors: Tensor, item_vectors: Tensor, config: DRRNetworkConfig) -> None:
        super().__init__()
        self.state = DRRState(user_vectors, item_vectors, config)
        self.by_parts = config.correction == "weights"
        reads = self.state.dim + (0 if self.by_parts else user_vectors.shape[1])
        self.layers = mlp([reads, config.hidden, config.hidden, 1])
        self.slope = nn.Parameter(torch.tensor(FIRST_SLOPE)) if config.start == "user" else None
        if self.slope is not None:
            _silence(self.layers)
        if self.by_parts:
            self.slope = nn.Parameter(torch.tensor([FIRST_SLOPE, FIRST_SLOPE, 0.0]))

    def forward(self, user: Tensor, history: Tensor, action: Tensor) -> Tensor:
        """Positions of users and of liked items, (B,) and (B, n), and ranking vectors (B, k), to values (B,)."""
        state = self.state(user, history)
        if self.by_parts:
            assert self.slope is not None
            _, _, average = state.chunk(3, dim=1)
            products = torch.einsum("bpk,bk->bp", _parts(self.state.users[user], average), action)
            return self.layers(state).squeeze(-1) + products @ self.slope
        value = self.layers(torch.cat([state, action], dim=1)).squeeze(-1)
        if self.slope is None:
            return value
        return value + self.slope * (self.state.users[user] * action).sum(dim=1)


def _parts(user: Tensor, average: Tensor) -> Tensor:
    """The user's factors, the last dimension, and the average's factors, each with zeros elsewhere, (B, 3, k)."""
    factors = torch.ones_like(user)
    factors[:, -1] = 0
    return torch.stack([user * factors, user * (1 - factors), average * factors], dim=1)


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
