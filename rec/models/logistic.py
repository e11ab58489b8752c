"""Logistic regression of hashed, crossed features: the baseline that is hard to beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.special import expit, logit
from torch import Tensor, nn

from rec.config import LogisticConfig, TaskConfig
from rec.errors import BundleError
from rec.models.crosses import HashedCrosses
from rec.models.multi_task import TaskOutputs, combine, formula_exponents
from rec.models.weights import put_weights, read_description, read_weights, save_described
from rec.ranking.data import FeatureLayout, RankingData


@dataclass(frozen=True)
class LogisticDesign:
    """What a logistic regression is built from; a `rec.models.row_task.RowDesign`.

    Attributes:
        crosses: the slots of a row.
        tasks: what is predicted: by a linear regression where it is no yes or no.
        config: penalty and formula.
        n_positions: positions whose effect is learned, 0 for none.
    """

    crosses: HashedCrosses
    tasks: tuple[TaskConfig, ...]
    config: LogisticConfig
    n_positions: int = 0

    @property
    def layout(self) -> FeatureLayout:
        """The features of a row."""
        return self.crosses.layout

    def rows(self, matrix: NDArray[np.float32]) -> NDArray[np.int32]:
        """Slots of feature rows, (R, F) to (R, S)."""
        return self.crosses.slots(matrix)

    def network(self) -> "HashedLinear":
        """The network, all weights 0."""
        return HashedLinear(self.crosses.bits, self.tasks, self.n_positions)

    def prepare(self, network: nn.Module, train: RankingData) -> None:
        """Begins where the mean prediction is the rate of successes, and sets the penalty of a mean over rows."""
        assert isinstance(network, HashedLinear)
        n_labels = (~np.isnan(train.labels)).sum(axis=0)
        # The loss of a task is its weight times a mean over its rows, and no task shares a parameter with another.
        weights = np.array([task.weight for task in self.tasks])
        network.penalise(torch.tensor(weights * self.config.l2 / np.maximum(n_labels, 1), dtype=torch.float32))
        positions = np.zeros(len(train.labels), np.int16) if train.positions is None else train.positions
        beside = network.outputs.beside(positions)
        begin = [
            level_of(label[~np.isnan(label)], added[~np.isnan(label)])
            for label, added in zip(train.labels.T, beside.T, strict=True)
        ]
        with torch.no_grad():
            odds = torch.tensor(begin, dtype=torch.float32)
            network.intercept.copy_(torch.where(network.outputs.binary, odds, 0.0))


def level_of(labels: NDArray[np.floating], beside: NDArray[np.floating]) -> float:
    """The logit that, with what is added to it at each row, predicts as many successes as there are.

    Args: labels: 0 or 1, (R,). beside: logits, such as of the positions, (R,).
    """
    if not len(labels):
        return 0.0
    rate = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    level, counts = np.unique(beside, return_counts=True)
    bracket = (logit(rate) - level[-1] - 1e-6, logit(rate) - level[0] + 1e-6)
    return float(root_scalar(lambda at: expit(at + level) @ counts / len(labels) - rate, bracket=bracket).root)


class HashedLinear(nn.Module):
    """The sum of the weights of a row's slots, and an intercept, for each task.

    Args: bits: there are 2 ** bits slots. tasks: what is predicted. n_positions: positions whose effect is learned.
    """

    def __init__(self, bits: int, tasks: tuple[TaskConfig, ...], n_positions: int) -> None:
        super().__init__()
        self.weights = nn.EmbeddingBag(2**bits, len(tasks), mode="sum")
        nn.init.zeros_(self.weights.weight)
        self.intercept = nn.Parameter(torch.zeros(len(tasks)))
        self.outputs = TaskOutputs(tasks, n_positions)

    def forward(self, slots: Tensor, positions: Tensor | None = None) -> Tensor:
        """Slots (B, S) shown at positions (B,), at the top without, to outputs (B, T)."""
        return self.outputs.shifted(self.weights(slots) + self.intercept, positions)

    def penalise(self, strength: Tensor) -> None:
        """Adds strength / 2 times the sum of squared weights to the loss of each task, (T,).

        As its gradient, strength times the weights, so that it counts once however many workers share a batch. What is
        reported as the loss is without it. The intercept and the positions go free.
        """
        weights = self.weights.weight
        weights.register_hook(lambda gradient: gradient + strength.to(gradient.device) * weights.detach())


@dataclass(frozen=True, slots=True)
class LogisticRanker:
    """A fitted logistic regression with its formula, on NumPy; a `rec.ranking.rankers.RankingModel`.

    Attributes: design: what it was built from. state: tensors of the fitted network. weights: (2 ** bits, T).
        intercept: (T,).
    """

    design: LogisticDesign
    state: Mapping[str, Tensor]
    weights: NDArray[np.float32]
    intercept: NDArray[np.float32]
    filename: ClassVar[str] = "ranker.safetensors"

    @classmethod
    def of(cls, design: LogisticDesign, weights: Mapping[str, Tensor], *, file: str | None = None) -> Self:
        """The ranker of a design and fitted weights."""
        network = design.network()
        put_weights(network, weights, file=file)
        return cls(
            design,
            network.state_dict(),
            network.weights.weight.detach().numpy(),
            network.intercept.detach().numpy(),
        )

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (R,) of feature rows (R, F): the logarithm of the formula, on the scale of a retriever's logit."""
        predictions = self._predictions(matrix)
        return np.log(combine(predictions, formula_exponents(self.design.config.formula, self.design.tasks)))

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the first task's success at the top of the list, (R, F) to (R,)."""
        return self._predictions(matrix)[:, 0]

    def save(self, folder: Path) -> None:
        """Writes the weights, with what they are weights of beside them in the same file."""
        description = {
            "crosses": self.design.crosses.to_json(),
            "tasks": [task.model_dump(mode="json") for task in self.design.tasks],
            "config": self.design.config.model_dump(mode="json"),
            "n_positions": self.design.n_positions,
        }
        save_described(self.state, description, folder / self.filename)

    @classmethod
    def load(cls, folder: Path, layout: FeatureLayout) -> Self:
        """Reads what `save` wrote.

        Raises: BundleError: when the file is damaged, or the model was trained on other features than `layout` names.
        """
        file = folder / cls.filename
        try:
            parts: Mapping[str, Any] = read_description(file)
            design = LogisticDesign(
                HashedCrosses.from_json(parts["crosses"]),
                tuple(TaskConfig.model_validate(task) for task in parts["tasks"]),
                LogisticConfig.model_validate(parts["config"]),
                int(parts["n_positions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"not a logistic regression: {error!r}; train again", file=str(file)) from error
        if design.layout != layout:
            raise BundleError("was trained on other features than this bundle's encoders make", file=str(file))
        return cls.of(design, read_weights(file), file=str(file))

    def _predictions(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """A probability for each binary task and a value for each regression, (R, T)."""
        logits = self.weights[self.design.crosses.slots(matrix)].sum(axis=1, dtype=np.float64) + self.intercept
        binary = np.array([task.kind == "binary" for task in self.design.tasks])
        mean, std = (self.state[f"outputs.label_{name}"].numpy() for name in ("mean", "std"))
        return np.where(binary, expit(logits), logits * std + mean)
