"""Fitting a model to pairs that were liked or not."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from two_stage.movielens import MovieLens

LEARNING_RATE = 0.05
WEIGHT_DECAY = 1e-4
EPSILON = 1e-10
BATCH_SIZE = 128


def new_model(kind: Callable[[MovieLens], nn.Module], data: MovieLens, seed: int) -> nn.Module:
    """A model with random weights that follow from the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(data)


class Adagrad:
    """Adagrad as in the paper: g <- g + decay w, s <- s + g^2, w <- w - rate g / sqrt(s).

    All weights are one vector: torch.optim.Adagrad, which does the same, is kept busy by a small model's many tensors.
    Source: Duchi et al. (2011), section 1.3, JMLR 12.
    """

    def __init__(self, model: nn.Module, weight_decay: float = WEIGHT_DECAY) -> None:
        parameters = list(model.parameters())
        self.weights = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.gradient, self.squares, self.root = (torch.zeros_like(self.weights) for _ in range(3))
        self.weight_decay = weight_decay
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, weights, gradient in zip(
            parameters, self.weights.split(sizes), self.gradient.split(sizes), strict=True
        ):
            parameter.data, parameter.grad = weights.view_as(parameter), gradient.view_as(parameter)

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        self.gradient.zero_()
        loss.backward()
        self.gradient.add_(self.weights, alpha=self.weight_decay)
        self.squares.addcmul_(self.gradient, self.gradient)
        torch.sqrt(self.squares, out=self.root)
        self.weights.addcdiv_(self.gradient, self.root.add_(EPSILON), value=-LEARNING_RATE)


def fit_pairs(
    score: Callable[..., Tensor],
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    liked: Tensor,
    *,
    epochs: int,
    rng: np.random.Generator | None,
    weight: Tensor | None = None,
    weight_decay: float = WEIGHT_DECAY,
) -> Iterator[int]:
    """Binary cross-entropy in batches; yields the number of steps done, after each step.

    Args: score: logits of a batch of the inputs. liked: 0 or 1, (n,). rng: shuffles each epoch; None keeps the order.
        weight: of each row's error, (n,). What is left of an epoch after its last whole batch is not used.
    """
    optimize = Adagrad(model, weight_decay)
    steps = 0
    for _ in range(epochs):
        order = torch.arange(len(liked)) if rng is None else torch.from_numpy(rng.permutation(len(liked)))
        for batch in order[: len(order) // BATCH_SIZE * BATCH_SIZE].view(-1, BATCH_SIZE):
            logits = score(*(part[batch] for part in inputs))
            weights = None if weight is None else weight[batch]
            loss = functional.binary_cross_entropy_with_logits(logits, liked[batch], weights)
            optimize.step(loss)
            steps += 1
            yield steps


def auc(scores: NDArray[np.floating], liked: NDArray[np.bool_]) -> float:
    """Probability that a liked row scores above another one; ties count half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    n_liked = int(liked.sum())
    above = mean_rank[place][liked].sum() - n_liked * (n_liked + 1) / 2
    return float(above / (n_liked * (len(liked) - n_liked)))
