"""Several things predicted of one row: their losses, what they are scaled by, and the one score made of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rec.config import TaskConfig
from rec.errors import ConfigError

SMALLEST = 1e-6


class TaskOutputs(nn.Module):
    """From a network's outputs to predictions: the scale of each task, and what the position of an item adds.

    An item lower in a list is looked at less, whatever it is. Of logged impressions, the logit of every binary task is
    what the network makes of the row plus a logit of the position, learned beside it. That of the top is 0, so that
    without positions the prediction is that for the top. The order of items does not depend on it.
    Source: Zhao et al. (2019), section 4.3, doi:10.1145/3298689.3346997. Differs from it in: the shallow tower reads
    the position alone, and the top stands for a missing position, so that no positions are dropped in training.

    Args: tasks: what is predicted. n_positions: of the list, 0 where positions are not known.
    """

    label_mean: Tensor
    label_std: Tensor
    binary: Tensor

    def __init__(self, tasks: Sequence[TaskConfig], n_positions: int) -> None:
        super().__init__()
        self.register_buffer("label_mean", torch.zeros(len(tasks)))
        self.register_buffer("label_std", torch.ones(len(tasks)))
        self.register_buffer("binary", torch.tensor([task.kind == "binary" for task in tasks]), persistent=False)
        self.below_the_top = nn.Parameter(torch.zeros(n_positions - 1, len(tasks))) if n_positions > 1 else None

    def begin(self, labels: NDArray[np.floating], positions: NDArray[np.integer]) -> None:
        """Starts with how the log-odds of success fall with the position, whatever was shown there.

        Were items put anywhere at random, that would be the answer; from there the fit has less far to go.

        Args: labels: (R, T), NaN where there is none. positions: (R,).
        """
        if self.below_the_top is None:
            return
        n_positions = len(self.below_the_top) + 1
        odds = np.zeros((n_positions, labels.shape[1]))
        for task in range(labels.shape[1]):
            known = ~np.isnan(labels[:, task])
            wins = np.bincount(positions[known], labels[known, task] > 0, n_positions)
            n = np.bincount(positions[known], minlength=n_positions)
            # Half a success and half a failure more, so that no odds are infinite.
            odds[:, task] = np.log((wins + 0.5) / (n - wins + 0.5))
        with torch.no_grad():
            self.below_the_top.copy_(torch.tensor(odds[1:] - odds[0]))

    def beside(self, positions: NDArray[np.integer]) -> NDArray[np.float64]:
        """What is added to the outputs of rows shown at these positions, (B,) to (B, T)."""
        nothing = torch.zeros(len(positions), len(self.binary))
        with torch.no_grad():
            return self.shifted(nothing, torch.from_numpy(positions)).double().numpy()

    def shifted(self, outputs: Tensor, positions: Tensor | None) -> Tensor:
        """Outputs for rows shown at these positions, 0 for the top; (B, T) and (B,) to (B, T)."""
        if positions is None or self.below_the_top is None:
            return outputs
        logits = functional.pad(self.below_the_top, (0, 0, 1, 0))
        return outputs + logits[positions.long()] * self.binary

    def predictions(self, outputs: Tensor) -> Tensor:
        """A probability for each binary task and a value for each regression, (B, T)."""
        return torch.where(self.binary, outputs.sigmoid(), outputs * self.label_std + self.label_mean)


def multi_task_losses(outputs: Tensor, labels: Tensor, tasks: Sequence[TaskConfig]) -> Tensor:
    """Cross-entropy of binary tasks, half the squared error of regressions, times the task's weight; 0 without a label.

    Args: outputs: logits or values, (B, T). labels: of the same scale, NaN where there is none, (B, T).
    Returns: losses, (B, T).
    """
    known = ~labels.isnan()
    wanted = torch.where(known, labels, 0)
    columns = [
        functional.binary_cross_entropy_with_logits(outputs[:, place], wanted[:, place], reduction="none")
        if task.kind == "binary"
        else 0.5 * (outputs[:, place] - wanted[:, place]) ** 2
        for place, task in enumerate(tasks)
    ]
    weights = torch.tensor([task.weight for task in tasks], device=outputs.device)
    return torch.stack(columns, dim=1) * known * weights


def combine(predictions: NDArray[np.floating], exponents: Sequence[float]) -> NDArray[np.float64]:
    """One score of several predictions: the product of prediction ** exponent, each prediction at least 1e-6.

    Args: predictions: (R, T). exponents: (T,).
    Returns: (R,).
    """
    return np.exp(np.log(np.maximum(predictions.astype(np.float64), SMALLEST)) @ np.asarray(exponents, np.float64))


def formula_exponents(formula: Mapping[str, float], tasks: Sequence[TaskConfig]) -> list[float]:
    """The exponent of each task, 1 where the formula names none.

    Raises: ConfigError: when the formula names a task there is not.
    """
    names = [task.name for task in tasks]
    unknown = sorted(set(formula) - set(names))
    if unknown:
        raise ConfigError(f"no task {', '.join(unknown)}; there are {', '.join(names)}", field="formula")
    return [formula.get(name, 1.0) for name in names]


def label_moments(labels: NDArray[np.floating], tasks: Sequence[TaskConfig]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of regression labels; 0 and 1 for binary tasks. (R, T) to (T,) each."""
    mean, std = moments(labels)
    regression = torch.tensor([task.kind == "regression" for task in tasks])
    return torch.where(regression, mean, 0.0), torch.where(regression, std, 1.0)


def moments(values: NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's known values; 0 and 1 of nothing, deviation 1 of a constant."""
    known = ~np.isnan(values)
    n = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0).astype(np.float64)
    mean = filled.sum(axis=0) / n
    std = np.sqrt((np.where(known, filled - mean, 0) ** 2).sum(axis=0) / n)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(np.where(std > 1e-6, std, 1), dtype=torch.float32)
