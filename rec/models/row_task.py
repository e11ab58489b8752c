"""Learning the labels of single rows; a `rec.training.TrainingTask` for every pointwise ranker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.config import PointwiseConfig, TaskConfig
from rec.errors import TrainingError
from rec.metrics import per_user
from rec.models.multi_task import TaskOutputs, combine, formula_exponents, label_moments, multi_task_losses
from rec.ranking.data import FeatureLayout, RankingData
from rec.training import Worker

AT_ONCE = 2**16


class RowNetwork(Protocol):
    """A network with one output a task."""

    outputs: TaskOutputs

    def __call__(self, rows: Tensor, positions: Tensor | None = None) -> Tensor:
        """Rows (B, ...) shown at positions (B,) to a logit or a value in training standard deviations, (B, T)."""
        ...


class RowDesign(Protocol):
    """What a network is built from; the smallest thing that has to be known to build it again."""

    @property
    def layout(self) -> FeatureLayout:
        """The features of a row."""
        ...

    @property
    def tasks(self) -> tuple[TaskConfig, ...]:
        """What is predicted."""
        ...

    @property
    def config(self) -> PointwiseConfig:
        """Sizes, and how the predictions become one score."""
        ...

    @property
    def n_positions(self) -> int:
        """Positions whose effect is learned, 0 for none."""
        ...

    def rows(self, matrix: NDArray[np.float32]) -> NDArray[Any]:
        """What the network reads of feature rows, (R, F) to (R, ...)."""
        ...

    def network(self) -> nn.Module:
        """The network before training, a `RowNetwork`; random weights come from torch's generator."""
        ...

    def prepare(self, network: nn.Module, train: RankingData) -> None:
        """Puts into a network what is known of the training rows before it learns from them."""
        ...


@dataclass(frozen=True)
class RowTask:
    """What pointwise rankers learn.

    Attributes:
        design: of the network.
        train, valid: query groups; without `valid` nothing is validated.
        batch_size: rows a batch, over all workers.
        seed: of the order of rows.
    """

    design: RowDesign
    train: RankingData
    valid: RankingData | None
    batch_size: int
    seed: int

    @property
    def metric(self) -> str:
        """The validation metric that decides."""
        return self.design.config.judged_by

    def build_model(self) -> nn.Module:
        """The model before training, with the scales of the training rows."""
        formula_exponents(self.design.config.formula, self.design.tasks)
        self.train.require_something_to_learn()
        network = self.design.network()
        assert isinstance(network.outputs, TaskOutputs)
        network.outputs.label_mean.copy_(self._label_moments[0])
        network.outputs.label_std.copy_(self._label_moments[1])
        if self.train.positions is not None:
            network.outputs.begin(self.train.labels, self.train.positions)
        self.design.prepare(network, self.train)
        return network

    def plan(self, epoch: int) -> Sequence[NDArray[np.int64]]:
        """Rows of the global batches: each row once, in random order."""
        rows = np.random.default_rng([self.seed, epoch]).permutation(len(self.train.matrix))
        return np.split(rows, range(self.batch_size, len(rows), self.batch_size))

    def loss(self, model: Callable[..., Any], batch: NDArray[np.int64], worker: Worker) -> Tensor:
        """This worker's part of a batch's loss: for each task the mean over the rows that have its label."""
        own = batch[worker.part(len(batch))]
        mean, std = self._label_moments
        labels = (torch.from_numpy(self.train.labels[own]) - mean) / std
        positions = None
        if self.design.n_positions:
            assert self.train.positions is not None
            positions = torch.from_numpy(self.train.positions[own]).to(worker.device)
        outputs = model(torch.from_numpy(self._rows[own]).to(worker.device), positions)
        labelled = (~np.isnan(self.train.labels[batch])).sum(axis=0)
        n_labels = torch.from_numpy(np.maximum(labelled, 1)).to(worker.device)
        losses = multi_task_losses(outputs.float(), labels.to(worker.device), self.design.tasks)
        return (losses.sum(dim=0) / n_labels).sum() * worker.world

    def validate(self, model: Any, device: torch.device) -> dict[str, float]:
        """NDCG of the validation queries by what the first task calls a success, and how likely it said these were."""
        if self.valid is None:
            return {}
        rows, success = self.design.rows(self.valid.matrix), self.valid.labels[:, 0]
        predictions = predict_rows(model, rows, device)
        scores = combine(predictions, formula_exponents(self.design.config.formula, self.design.tasks))
        if self.design.n_positions:
            assert self.valid.positions is not None
            positions = np.clip(self.valid.positions, 0, self.design.n_positions - 1)
            predictions = predict_rows(model, rows, device, positions=positions)
        return {
            "ndcg@10": group_ndcg(scores, success > 0, self.valid.groups),
            "log_likelihood": mean_log_likelihood(predictions[:, 0], success),
        }

    @property
    def constant_likelihood(self) -> float:
        """The `log_likelihood` of saying for every validation row how often the training rows were a success."""
        assert self.valid is not None
        learned, success = self.train.labels[:, 0], self.valid.labels[:, 0]
        rate = (learned[~np.isnan(learned)] > 0).mean()
        return mean_log_likelihood(np.full(len(success), rate), success)

    @cached_property
    def _rows(self) -> NDArray[Any]:
        return self.design.rows(self.train.matrix)

    @cached_property
    def _label_moments(self) -> tuple[Tensor, Tensor]:
        return label_moments(self.train.labels, self.design.tasks)


def positions_to_learn(train: RankingData) -> int:
    """How many positions there are whose effect can be learned.

    Raises: TrainingError: when it is not known where the items were shown.
    """
    if train.positions is None or train.positions.min(initial=0) < 0:
        raise TrainingError(
            "ranker.position_bias needs the position at which each item was shown, which this log does not hold; take "
            "--data events, or leave it out"
        )
    return int(train.positions.max(initial=0)) + 1


@torch.inference_mode()
def predict_rows(
    network: Any,
    rows: NDArray[Any],
    device: torch.device | None = None,
    *,
    positions: NDArray[np.integer] | None = None,
) -> NDArray[np.float32]:
    """Predictions of a `RowNetwork`, (R, ...) to (R, T), for rows shown at positions (R,), by default at the top."""
    network.eval()

    def predictions(part: slice) -> Tensor:
        at = None if positions is None else torch.tensor(positions[part], device=device)
        return network.outputs.predictions(network(torch.tensor(rows[part], device=device), at))

    starts = range(0, max(len(rows), 1), AT_ONCE)
    return np.concatenate([predictions(slice(start, start + AT_ONCE)).cpu().numpy() for start in starts])


def mean_log_likelihood(probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Mean log probability of labels of 0 and 1, minus the log loss; probabilities count as 1e-6 to 1 - 1e-6.

    Args: probabilities: of 1, (R,). labels: NaN where there is none, (R,).
    """
    known = ~np.isnan(labels)
    p = np.clip(probabilities[known].astype(np.float64), 1e-6, 1 - 1e-6)
    return float(np.where(labels[known] > 0, np.log(p), np.log1p(-p)).mean()) if known.any() else 0.0


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
