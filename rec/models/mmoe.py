"""A multi-gate mixture of experts: one network that predicts several things, and a formula that makes them one score.

Source: Ma et al. (2018), doi:10.1145/3219819.3220007.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from rec.config import MMoEConfig, TaskConfig
from rec.errors import BundleError, ConfigError
from rec.metrics import per_user
from rec.models.tower import mlp
from rec.models.weights import put_weights, read_weights
from rec.ranking_data import FeatureLayout, RankingData
from rec.training import Worker

CODE_DIM = 8
SMALLEST = 1e-6


class MMoE(nn.Module):
    """Shared experts, and for each task a gate of its own that mixes them and a tower that reads the mixture.

    Args: cardinalities: number of codes of each column, 0 for a number. tasks: what is predicted. config: sizes.
    """

    mean: Tensor
    std: Tensor
    label_mean: Tensor
    label_std: Tensor

    def __init__(self, cardinalities: Sequence[int], tasks: Sequence[TaskConfig], config: MMoEConfig) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.numeric = [column for column, n_codes in enumerate(cardinalities) if not n_codes]
        self.coded = [column for column, n_codes in enumerate(cardinalities) if n_codes]
        self.embeddings = nn.ModuleList(nn.Embedding(cardinalities[column], CODE_DIM) for column in self.coded)
        self.register_buffer("mean", torch.zeros(len(self.numeric)))
        self.register_buffer("std", torch.ones(len(self.numeric)))
        self.register_buffer("label_mean", torch.zeros(len(tasks)))
        self.register_buffer("label_std", torch.ones(len(tasks)))
        size = len(self.numeric) + CODE_DIM * len(self.coded)
        expert = [size, *config.expert_hidden, config.expert_dim]
        self.experts = nn.ModuleList(mlp(expert, dropout=config.dropout) for _ in range(config.experts))
        self.gates = nn.ModuleList(mlp([size, *config.gate_hidden, config.experts]) for _ in tasks)
        self.towers = nn.ModuleList(
            mlp([config.expert_dim, *config.tower_hidden, 1], dropout=config.dropout) for _ in tasks
        )

    def forward(self, matrix: Tensor) -> Tensor:
        """Feature rows (B, F) to one output a task: a logit, or a value in training standard deviations, (B, T)."""
        inputs = self.inputs(matrix)
        experts = torch.stack([functional.relu(expert(inputs)) for expert in self.experts])
        mixed = torch.einsum("tbe,ebd->tbd", self.mixture(inputs), experts)
        return torch.cat([tower(rows) for tower, rows in zip(self.towers, mixed, strict=True)], dim=1)

    def inputs(self, matrix: Tensor) -> Tensor:
        """Standardised numbers, 0 where one is missing, and embedded codes, (B, F) to (B, size)."""
        numbers = torch.nan_to_num((matrix[:, self.numeric] - self.mean) / self.std)
        parts = [numbers.clamp(-10, 10)]
        for column, embedding in zip(self.coded, self.embeddings, strict=True):
            codes = torch.nan_to_num(matrix[:, column]).long()
            assert isinstance(embedding, nn.Embedding)
            known = (codes >= 0) & (codes < embedding.num_embeddings)
            parts.append(embedding(torch.where(known, codes, 0)))
        return torch.cat(parts, dim=1)

    def mixture(self, inputs: Tensor) -> Tensor:
        """How much each task takes of each expert, summing to one, (T, B, E)."""
        return torch.stack([gate(inputs).softmax(dim=1) for gate in self.gates])

    def predict(self, matrix: Tensor) -> Tensor:
        """Feature rows (B, F) to a probability for each binary task and a value for each regression, (B, T)."""
        outputs = self(matrix)
        values = outputs * self.label_std + self.label_mean
        binary = torch.tensor([task.kind == "binary" for task in self.tasks], device=matrix.device)
        return torch.where(binary, outputs.sigmoid(), values)


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
        raise ConfigError(f"no task {', '.join(unknown)}; there are {', '.join(names)}", field="ranker.mmoe.formula")
    return [formula.get(name, 1.0) for name in names]


@dataclass(frozen=True)
class MMoETask:
    """What the mixture of experts learns: the labels of single rows; a `rec.training.TrainingTask`.

    Attributes:
        train, valid: query groups; without `valid` nothing is validated.
        tasks: what the label columns are, in their order.
        config: of the network.
        batch_size: rows a batch, over all workers.
        seed: of the order of rows.
    """

    train: RankingData
    valid: RankingData | None
    tasks: tuple[TaskConfig, ...]
    config: MMoEConfig
    batch_size: int
    seed: int

    @property
    def metric(self) -> str:
        """The validation metric that decides."""
        return "ndcg@10"

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each column, 0 for a number; of the training and validation rows."""
        largest = self.train.matrix.max(axis=0, initial=0)
        if self.valid is not None:
            largest = np.maximum(largest, self.valid.matrix.max(axis=0, initial=0))
        layout = self.train.layout
        return tuple(
            int(most) + 1 if name in layout.categorical else 0 for name, most in zip(layout.names, largest, strict=True)
        )

    def build_model(self) -> MMoE:
        """The model before training, with the means and deviations of the training rows."""
        formula_exponents(self.config.formula, self.tasks)
        self.train.require_something_to_learn()
        model = MMoE(self.cardinalities, self.tasks, self.config)
        mean, std = _moments(self.train.matrix[:, model.numeric])
        model.mean.copy_(mean)
        model.std.copy_(std)
        model.label_mean.copy_(self._label_moments[0])
        model.label_std.copy_(self._label_moments[1])
        return model

    def plan(self, epoch: int) -> Sequence[NDArray[np.int64]]:
        """Rows of the global batches: each row once, in random order."""
        rows = np.random.default_rng([self.seed, epoch]).permutation(len(self.train.matrix))
        return np.split(rows, range(self.batch_size, len(rows), self.batch_size))

    def loss(self, model: Callable[..., Any], batch: NDArray[np.int64], worker: Worker) -> Tensor:
        """This worker's part of a batch's loss: for each task the mean over the rows that have its label."""
        own = batch[worker.part(len(batch))]
        mean, std = self._label_moments
        labels = (torch.from_numpy(self.train.labels[own]) - mean) / std
        outputs = model(torch.from_numpy(self.train.matrix[own]).to(worker.device))
        labelled = (~np.isnan(self.train.labels[batch])).sum(axis=0)
        n_labels = torch.from_numpy(np.maximum(labelled, 1)).to(worker.device)
        losses = multi_task_losses(outputs.float(), labels.to(worker.device), self.tasks)
        return (losses.sum(dim=0) / n_labels).sum() * worker.world

    def validate(self, model: MMoE, device: torch.device) -> dict[str, float]:
        """NDCG of the validation queries, by what the first task calls a success."""
        if self.valid is None:
            return {}
        predictions = _predict(model, self.valid.matrix)
        scores = combine(predictions, formula_exponents(self.config.formula, self.tasks))
        return {self.metric: group_ndcg(scores, self.valid.labels[:, 0] > 0, self.valid.groups)}

    @cached_property
    def _label_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of regression labels; 0 and 1 for binary tasks."""
        mean, std = _moments(self.train.labels)
        regression = torch.tensor([task.kind == "regression" for task in self.tasks])
        return torch.where(regression, mean, 0.0), torch.where(regression, std, 1.0)


@dataclass(frozen=True, slots=True)
class MMoERanker:
    """A fitted mixture of experts with its formula; a `rec.rankers.RankingModel`."""

    network: MMoE
    layout: FeatureLayout
    cardinalities: tuple[int, ...]
    config: MMoEConfig
    filename: ClassVar[str] = "ranker.safetensors"

    @classmethod
    def of(cls, task: MMoETask, weights: Mapping[str, Tensor]) -> Self:
        """The ranker that a fit of the task found."""
        network = MMoE(task.cardinalities, task.tasks, task.config)
        put_weights(network, weights)
        return cls(network.eval(), task.train.layout, task.cardinalities, task.config)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (R,) of feature rows (R, F): the logarithm of the formula, on the scale of a retriever's logit."""
        predictions = _predict(self.network, matrix)
        return np.log(combine(predictions, formula_exponents(self.config.formula, self.network.tasks)))

    def save(self, folder: Path) -> None:
        """Writes the weights, with what the network is built from beside them in the same file."""
        parts = {
            "names": self.layout.names,
            "categorical": self.layout.categorical,
            "cardinalities": self.cardinalities,
            "tasks": [task.model_dump(mode="json") for task in self.network.tasks],
            "config": self.config.model_dump(mode="json"),
        }
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(weights, folder / self.filename, metadata={"mmoe": json.dumps(parts)})

    @classmethod
    def load(cls, folder: Path, layout: FeatureLayout) -> Self:
        """Reads what `save` wrote.

        Raises: BundleError: when the file is damaged, or the model was trained on other features than `layout` names.
        """
        file = folder / cls.filename
        try:
            with safe_open(file, framework="pt") as opened:
                parts = json.loads((opened.metadata() or {})["mmoe"])
            tasks = tuple(TaskConfig.model_validate(task) for task in parts["tasks"])
            config = MMoEConfig.model_validate(parts["config"])
            saved = FeatureLayout(tuple(parts["names"]), tuple(parts["categorical"]))
            cardinalities = tuple(int(n_codes) for n_codes in parts["cardinalities"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"not a mixture of experts: {error!r}; train again", file=str(file)) from error
        if saved != layout:
            raise BundleError("was trained on other features than this bundle's encoders make", file=str(file))
        network = MMoE(cardinalities, tasks, config)
        put_weights(network, read_weights(file), file=str(file))
        return cls(network.eval(), layout, cardinalities, config)


def group_ndcg(scores: NDArray[np.floating], relevant: NDArray[np.bool_], groups: NDArray[np.integer]) -> float:
    """Mean NDCG@10 over the queries with a relevant row; 0 when there are none.

    Args: scores, relevant: of each row, (R,). groups: rows of each query, (Q,).
    """
    starts = np.cumsum(groups) - groups
    query = np.repeat(np.arange(len(groups)), groups)
    order = np.lexsort((-scores, query))
    place = np.arange(len(order)) - starts[query]
    lists = np.full((len(groups), max(10, int(groups.max(initial=0)))), -1, np.int64)
    lists[query, place] = order
    n_relevant = np.bincount(query[relevant], minlength=len(groups))
    judged = n_relevant > 0
    if not judged.any():
        return 0.0
    indptr = np.concatenate([[0], np.cumsum(n_relevant[judged])])
    return float(per_user(lists[judged], indptr, np.flatnonzero(relevant), ["ndcg@10"])["ndcg@10"].mean())


@torch.inference_mode()
def _predict(network: MMoE, matrix: NDArray[np.float32], *, block: int = 2**16) -> NDArray[np.float32]:
    network.eval()
    device = network.mean.device
    parts = [
        network.predict(torch.tensor(matrix[start : start + block], device=device)).cpu().numpy()
        for start in range(0, max(len(matrix), 1), block)
    ]
    return np.concatenate(parts)


def _moments(values: NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column's known values; 0 and 1 of nothing, deviation 1 of a constant."""
    known = ~np.isnan(values)
    n = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0).astype(np.float64)
    mean = filled.sum(axis=0) / n
    std = np.sqrt((np.where(known, filled - mean, 0) ** 2).sum(axis=0) / n)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(np.where(std > 1e-6, std, 1), dtype=torch.float32)
