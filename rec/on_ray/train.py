"""The shell around `rec.training`: the same fit in this process or on Ray Train workers, with its run directory."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from tensorboardX import SummaryWriter
from torch import Tensor, nn

from rec import __version__
from rec.bundle import git_sha
from rec.config import Config, TrainingConfig
from rec.errors import ConfigError
from rec.run_files import EPOCHS_FILE, RUN_FILE
from rec.storage import Place, replace_file
from rec.training import PROGRESS_FILE, Fitted, TrainingTask, Worker, fit, read_fitted

CHECKPOINTS_FOLDER: Final = "checkpoints"
POLL_S: Final = 0.2

OnEpoch = Callable[[dict[str, float]], None]


def print_epoch(metrics: Mapping[str, float]) -> None:
    """One line on stderr."""
    values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(values, file=sys.stderr, flush=True)


def train(
    task: TrainingTask,
    config: TrainingConfig,
    *,
    seed: int,
    run_dir: Path,
    resume: bool = False,
    init_from: Mapping[str, Tensor] | None = None,
    on_epoch: OnEpoch = print_epoch,
    place: Place | None = None,
) -> Fitted:
    """Fits a task on `config.workers` Ray Train workers, or in this process for 0.

    Ray must have been started. Lost workers are replaced `config.max_failures` times, and go on from the last epoch.

    Args: task: what is learned; it travels through Ray's object store. config: how. seed: of weights and dropout.
        run_dir: a folder for checkpoints, TensorBoard events and `epochs.jsonl`; without a place of theirs, workers
            have to share its storage.
        resume: go on from the folder's last checkpoint, if there is one. init_from: weights to begin with.
        on_epoch: told the metrics after each epoch, in this process. place: where the checkpoints of workers go in the
        place of run_dir.
    Returns: the best weights.
    Raises: ConfigError: when the folder holds a run and resume was not asked for. TrainingError: when training cannot
        go on, or workers keep dying. KeyboardInterrupt: after Ctrl-C, when the workers are gone.
    """
    run_dir = run_dir.resolve()
    if (run_dir / EPOCHS_FILE).exists() and not resume:
        raise ConfigError("this folder holds a run already; resume it, or name another folder", file=str(run_dir))
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.workers == 0:
        return _train_here(task, config, seed, run_dir, init_from, on_epoch)
    return _train_on_ray(task, config, seed, run_dir, init_from, on_epoch, place)


def write_run_record(run_dir: Path, *, config: Config, seed: int, data: Mapping[str, Any]) -> None:
    """Writes `run.json`: what was run on which data (name, sha256, row counts), with which versions and code."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "ray", "lightgbm")}
    record = {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "data": dict(data),
        "versions": {"tandem-rec": __version__, "python": platform.python_version(), **packages},
        "git_sha": git_sha(),
    }
    replace_file(run_dir / RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())


class EpochLog:
    """Writes each epoch's metrics to TensorBoard and as a line of `epochs.jsonl`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._board: SummaryWriter | None = None

    def write(self, metrics: Mapping[str, float]) -> None:
        """Adds one epoch."""
        self._board = self._board or SummaryWriter(str(self.run_dir))
        for name, value in metrics.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(metrics["epoch"]))
        self._board.flush()
        with (self.run_dir / EPOCHS_FILE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(dict(metrics)) + "\n")


def uses_gpu(config: TrainingConfig, n_gpus: float, *, may_grow: bool = False) -> bool:
    """Whether every worker gets a GPU, or this process where there are none: as configured, or where there are enough.

    Args: n_gpus: how many there are. may_grow: whether there may be more once they are asked for.
    Raises: ConfigError: when they are asked for, and there are not enough.
    """
    needed = max(config.workers, 1)
    if config.use_gpu and n_gpus < needed and not may_grow:
        raise ConfigError(
            f"{needed} GPUs are asked for, one for each worker, and there are {n_gpus:g}; leave it out, or join a "
            "cluster that has them (RAY_ADDRESS)",
            field="training.use_gpu",
        )
    return n_gpus >= needed if config.use_gpu is None else config.use_gpu


def _train_here(
    task: TrainingTask,
    config: TrainingConfig,
    seed: int,
    run_dir: Path,
    init_from: Mapping[str, Tensor] | None,
    on_epoch: OnEpoch,
) -> Fitted:
    log = EpochLog(run_dir)
    kept = run_dir / CHECKPOINTS_FOLDER
    checkpoint = max(kept.glob(f"*/{PROGRESS_FILE}"), default=None)

    def report(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        folder = kept / f"{int(metrics['epoch']):06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save(folder)
        for other in kept.iterdir():
            if other != folder:
                shutil.rmtree(other)
        log.write(metrics)
        on_epoch(metrics)

    worker = Worker(device=torch.device("cuda" if uses_gpu(config, torch.cuda.device_count()) else "cpu"))
    return fit(
        task,
        config,
        seed=seed,
        worker=worker,
        distribute=lambda model: model.to(worker.device),
        report=report,
        checkpoint=None if checkpoint is None else checkpoint.parent,
        init_from=init_from,
    )


def _train_on_ray(
    task: TrainingTask,
    config: TrainingConfig,
    seed: int,
    run_dir: Path,
    init_from: Mapping[str, Tensor] | None,
    on_epoch: OnEpoch,
    place: Place | None,
) -> Fitted:
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from rec.on_ray.trainer import fit_trainer, kept_in

    task_ref = ray.put(task)
    weights = None if init_from is None else {name: tensor.cpu().numpy() for name, tensor in init_from.items()}
    weights_ref = ray.put(weights)
    n_gpus, joined = ray.cluster_resources().get("GPU", 0), os.environ.get("RAY_ADDRESS", "local") != "local"
    use_gpu = uses_gpu(config, n_gpus, may_grow=joined)
    if use_gpu and n_gpus < config.workers:
        print(f"waiting for {config.workers} GPUs, of which the cluster has {n_gpus:g}", file=sys.stderr, flush=True)
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"task": task_ref, "config": config.model_dump(), "seed": seed, "init_from": weights_ref},
        scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=run_dir.name,
            **kept_in(run_dir.parent, place),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[_epoch_callback(run_dir)],
        ),
    )
    with _follow(run_dir / EPOCHS_FILE, on_epoch):
        checkpoint, _ = fit_trainer(trainer)
    with checkpoint.as_directory() as folder:
        return read_fitted(Path(folder))


def _train_loop(loop: dict[str, Any]) -> None:
    """Runs on every worker."""
    import ray
    import ray.train
    from ray.train.torch import get_device, prepare_model

    config = TrainingConfig.model_validate(loop["config"])
    task: TrainingTask = ray.get(loop["task"])
    weights: Any = ray.get(loop["init_from"])
    context = ray.train.get_context()
    device = get_device()
    assert isinstance(device, torch.device)
    worker = Worker(context.get_world_rank(), context.get_world_size(), device)

    def report(metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        if worker.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def distribute(model: nn.Module) -> nn.Module:
        if worker.world > 1 and worker.device.type == "cuda" and _has_sparse_tables(model):
            raise ConfigError(
                "NCCL cannot add up sparse gradients; set retriever.sparse_embeddings to false on GPUs",
                field="retriever.sparse_embeddings",
            )
        return prepare_model(model)

    checkpoint = ray.train.get_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint is not None:
            checkpoint.to_directory(folder)
        fit(
            task,
            config,
            seed=loop["seed"],
            worker=worker,
            distribute=distribute,
            report=report,
            checkpoint=Path(folder) if checkpoint is not None else None,
            init_from=None if weights is None else {name: torch.tensor(array) for name, array in weights.items()},
        )


def _has_sparse_tables(model: nn.Module) -> bool:
    return any(getattr(module, "sparse", False) for module in model.modules())


def _epoch_callback(run_dir: Path) -> Any:
    from ray.train import UserCallback

    class EpochCallback(UserCallback):
        """Logs what rank 0 reports; lives in Ray's controller, on this machine."""

        def __init__(self) -> None:
            self._log = EpochLog(run_dir)

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            self._log.write(metrics[0])

    return EpochCallback()


@contextmanager
def _follow(file: Path, on_epoch: OnEpoch) -> Iterator[None]:
    """Passes on the lines that another process adds to a file."""
    ended = threading.Event()
    begin = file.stat().st_size if file.exists() else 0

    def follow() -> None:
        while not file.exists():
            if ended.wait(POLL_S):
                break
        if not file.exists():
            return
        with file.open(encoding="utf-8") as lines:
            lines.seek(begin)
            partial = ""
            while True:
                last_look = ended.is_set()
                while line := lines.readline():
                    partial += line
                    if partial.endswith("\n"):
                        on_epoch(json.loads(partial))
                        partial = ""
                if last_look:
                    return
                ended.wait(POLL_S)

    thread = threading.Thread(target=follow, name="tandem-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
