"""Fitting a model, on one worker or as one of several; knows torch.distributed, but no Ray.

A task plans the global batches of an epoch, the same on every worker, and computes a worker's part of a batch's loss.
The mean of the parts over the workers is the loss of the global batch, and so are the gradients: N workers learn what
one would.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rec.config import TrainingConfig
from rec.errors import TrainingError
from rec.models.weights import put_weights, read_weights, save_weights
from rec.precision import InBfloat16, uses_bfloat16

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
TASK_FILE = "task.safetensors"
PROGRESS_FILE = "progress.json"


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `world` workers, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def part(self, n: int) -> slice:
        """This worker's rows of n: neighbouring, and at most one more than another worker's."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def even_part(self, n: int) -> slice:
        """This worker's rows of n after they were filled up to a multiple of the workers."""
        size = -(-n // self.world)
        return slice(self.rank * size, (self.rank + 1) * size)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all workers, which have as many, one after the other; gradients find their way back."""
        return rows if self.world == 1 else _Gather.apply(rows, self)  # pyright: ignore[reportReturnType]

    def agree(self, values: Any) -> Any:
        """What rank 0 has, on every worker."""
        if self.world == 1:
            return values
        box = [values]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def total(self, value: Tensor) -> Tensor:
        """Sum over all workers."""
        if self.world > 1:
            dist.all_reduce(value)
        return value


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums what every worker's loss says about this worker's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, worker: Worker) -> Tensor:
        ctx.worker = worker
        parts = [torch.empty_like(rows) for _ in range(worker.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The sum is formed in place, and the buffer that arrives is autograd's.
        gradient = ctx.worker.total(gradients[0].clone(memory_format=torch.contiguous_format))
        return gradient[ctx.worker.even_part(len(gradient))], None


class TrainingTask(Protocol):
    """What is learned. It travels to the workers, so it holds NumPy arrays and configs, and needs no Ray."""

    @property
    def metric(self) -> str:
        """Name of the validation metric that decides; the higher, the better."""
        ...

    def build_model(self) -> nn.Module:
        """The model before training; random weights come from torch's generator, which the caller seeds."""
        ...

    def plan(self, epoch: int) -> Sequence[Any]:
        """The global batches of an epoch: the same on every worker, and again when the epoch is done again."""
        ...

    def loss(self, model: Callable[..., Any], batch: Any, worker: Worker) -> Tensor:
        """This worker's part of a batch's loss; the mean over the workers is the loss of the batch.

        The model may compute in bfloat16, and answers in float32 all the same (`rec.precision`). What the loss draws,
        as dropout does, comes from torch's generator, which the caller seeds by epoch and worker.
        """
        ...

    def validate(self, model: Any, device: torch.device) -> dict[str, float]:
        """Validation metrics by name; empty when there is nothing to validate on."""
        ...


@runtime_checkable
class LearningTask(TrainingTask, Protocol):
    """A task whose batches depend on what was learned until then, by the model or beside it."""

    def begin_epoch(self, model: Any, epoch: int, worker: Worker) -> None:
        """Called by every worker before an epoch is planned; the model is in training."""
        ...

    def state(self, epoch: int) -> dict[str, NDArray[Any]]:
        """What was learned beside the model in the epochs before the one given, the same on every worker."""
        ...

    def restore(self, epoch: int, state: dict[str, NDArray[Any]]) -> None:
        """Goes on before an epoch with what `state` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fit has come.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch with the best validation metric, or the last where there is none.
        best: validation metrics of that epoch.
        history: what was reported after each epoch.
        finished: whether nothing is left to do.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """The weights of the best epoch, and how it went."""

    weights: dict[str, Tensor]
    progress: Progress


class Optimizers:
    """AdamW for what has dense gradients, SparseAdam for embedding tables with sparse ones."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        tables = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
        }
        sparse = [parameter for parameter in model.parameters() if id(parameter) in tables]
        dense = [parameter for parameter in model.parameters() if id(parameter) not in tables]
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        if dense:
            self._optimizers["dense"] = torch.optim.AdamW(
                dense, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
            )
        if sparse:
            self._optimizers["sparse"] = torch.optim.SparseAdam(sparse, lr=config.learning_rate)

    def step(self, learning_rate: float) -> None:
        """One step along the gradients, which are then forgotten."""
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def save(self, file: Path) -> None:
        """Writes the moments as tensors named by optimizer, parameter and moment."""
        tensors = {}
        for name, optimizer in self._optimizers.items():
            for parameter, state in optimizer.state_dict()["state"].items():
                for moment, value in state.items():
                    tensors[f"{name}.{parameter}.{moment}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(tensors, file)

    def load(self, file: Path) -> None:
        """Reads what `save` wrote."""
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self._optimizers}
        for key, tensor in load_file(file).items():
            name, parameter, moment = key.split(".")
            states[name].setdefault(int(parameter), {})[moment] = tensor
        for name, optimizer in self._optimizers.items():
            # SparseAdam counts its steps in a Python int.
            if name == "sparse":
                for state in states[name].values():
                    state["step"] = int(state["step"])  # pyright: ignore[reportArgumentType]
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states[name], "param_groups": groups})


def learning_rate(config: TrainingConfig, done: float) -> float:
    """The learning rate when a share `done` of training is behind: a linear rise, then constant or a cosine to 0."""
    if done < config.warmup:
        return config.learning_rate * done / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - config.warmup) / (1 - config.warmup)))


def fit_epoch(
    task: TrainingTask,
    model: nn.Module,
    optimizers: Optimizers,
    config: TrainingConfig,
    *,
    epoch: int,
    worker: Worker,
) -> float:
    """Trains one epoch (counted from 0) and returns the mean loss of its batches.

    Raises: TrainingError: when the loss is no longer finite, or there is nothing to learn from.
    """
    batches = task.plan(epoch)
    if not batches:
        raise TrainingError("there is nothing to learn from: no batch could be made of the training data")
    model.train()
    computed = InBfloat16(model, worker.device) if uses_bfloat16(config, worker.device) else model
    total = torch.zeros((), device=worker.device)
    for step, batch in enumerate(batches):
        loss = task.loss(computed, batch, worker)
        loss.backward()
        # The middle of a step: neither the first nor the last has a learning rate of 0, even where there is only one.
        optimizers.step(learning_rate(config, (epoch + (step + 0.5) / len(batches)) / config.epochs))
        total += loss.detach()
    mean = float(worker.total(total) / (worker.world * len(batches)))
    if not math.isfinite(mean):
        raise TrainingError(
            f"the loss of epoch {epoch + 1} is {mean}; lower training.learning_rate (now {config.learning_rate})"
        )
    return mean


Report = Callable[[dict[str, float], Callable[[Path], None]], None]


def fit(
    task: TrainingTask,
    config: TrainingConfig,
    *,
    seed: int,
    worker: Worker | None = None,
    distribute: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Report = lambda metrics, save: None,
    checkpoint: Path | None = None,
    init_from: Mapping[str, Tensor] | None = None,
) -> Fitted:
    """Fits a task epoch by epoch until the last, or until the validation metric has not risen for `patience` epochs.

    Args: task: what is learned. config: how. seed: of the first weights and of dropout. worker: which worker this is.
        distribute: moves the model to its device and makes workers share gradients. report: called by every worker
        after each epoch with metrics and a function that writes a checkpoint into a folder. checkpoint: a folder
        written by it, from which to go on. init_from: weights to begin with; a checkpoint goes before them.
    Returns: the best weights, on the CPU.
    Raises: TrainingError: when the loss is no longer finite, or there is nothing to learn from.
    """
    worker = worker or Worker()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build_model()
    progress = Progress()
    best = _copy(init_from or model.state_dict())
    if checkpoint is not None:
        progress = read_progress(checkpoint)
        comparable = progress.finished or not progress.best or task.metric in progress.best
        put_weights(model, read_weights(checkpoint / MODEL_FILE), file=str(checkpoint / MODEL_FILE))
        best = read_weights(checkpoint / BEST_FILE)
    elif init_from is not None:
        put_weights(model, init_from)
    shared = distribute(model)
    optimizers = Optimizers(model, config)
    learning = task if isinstance(task, LearningTask) else None
    if checkpoint is not None:
        optimizers.load(checkpoint / OPTIMIZER_FILE)
        if not comparable:
            progress = replace(progress, best=_judged_anew(task, model, best, worker))
        if learning is not None and (checkpoint / TASK_FILE).exists():
            learning.restore(progress.epoch, load_arrays(checkpoint / TASK_FILE))

    for epoch in range(progress.epoch, config.epochs):
        if progress.finished:
            break
        started = time.perf_counter()
        with torch.random.fork_rng(devices=[worker.device] if worker.device.type == "cuda" else []):
            torch.manual_seed(hash((seed, epoch, worker.rank)))
            if learning is not None:
                learning.begin_epoch(model, epoch, worker)
            loss = fit_epoch(task, shared, optimizers, config, epoch=epoch, worker=worker)
        trained = time.perf_counter()
        valid = worker.agree(_validate(task, model, worker) if worker.rank == 0 else None)
        seconds = {"train_s": trained - started, "valid_s": time.perf_counter() - trained}
        progress = advance(progress, {"loss": loss, **valid, **seconds}, valid, task.metric, config)
        if progress.best_epoch == progress.epoch:
            best = _copy(model.state_dict())

        def save(folder: Path, progress: Progress = progress, best: dict[str, Tensor] = best) -> None:
            save_weights(model, folder / MODEL_FILE)
            save_file(best, folder / BEST_FILE)
            optimizers.save(folder / OPTIMIZER_FILE)
            if learning is not None and (state := learning.state(progress.epoch)):
                save_arrays({name: np.ascontiguousarray(array) for name, array in state.items()}, folder / TASK_FILE)
            # Written last: a folder without it is no checkpoint.
            (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress)), encoding="utf-8")

        report(progress.history[-1], save)
    return Fitted(best, progress)


def advance(
    progress: Progress, metrics: dict[str, float], valid: dict[str, float], metric: str, config: TrainingConfig
) -> Progress:
    """The progress after one more epoch; without validation the last epoch is the best."""
    epoch = progress.epoch + 1
    better = not valid or not progress.best or valid[metric] > progress.best[metric]
    best_epoch = epoch if better else progress.best_epoch
    finished = epoch >= config.epochs or epoch - best_epoch >= config.patience
    return replace(
        progress,
        epoch=epoch,
        best_epoch=best_epoch,
        best=valid if better else progress.best,
        history=(*progress.history, {"epoch": epoch, **metrics}),
        finished=finished,
    )


def _judged_anew(task: TrainingTask, model: nn.Module, best: Mapping[str, Tensor], worker: Worker) -> dict[str, float]:
    """Validation metrics of the best weights so far, by what decides now: a version before may have gone by another."""
    current = _copy(model.state_dict())
    put_weights(model, dict(best))
    valid = worker.agree(_validate(task, model, worker) if worker.rank == 0 else None)
    put_weights(model, current)
    return valid


def read_progress(folder: Path) -> Progress:
    """The progress written into a checkpoint."""
    values = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    return Progress(**{**values, "history": tuple(values["history"])})


def read_fitted(folder: Path) -> Fitted:
    """The best weights of a checkpoint, and how far it had come."""
    return Fitted(read_weights(folder / BEST_FILE), read_progress(folder))


def _validate(task: TrainingTask, model: nn.Module, worker: Worker) -> dict[str, float]:
    model.eval()
    with torch.inference_mode():
        return task.validate(model, worker.device)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
