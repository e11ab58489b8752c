"""Training runs: a folder with a record of what was run on what, and the fits in it."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Final, Self

from rec.config import TrainConfig, TrainingConfig
from rec.data.dataset import Dataset
from rec.errors import ConfigError
from rec.preparation import Prepared, history_length, snapshot_at
from rec.ray_train import train as fit_on_ray
from rec.ray_train import write_run_record
from rec.retrieval_data import build_retrieval_data, build_validation
from rec.retriever_task import RetrieverTask
from rec.run_files import RUN_FILE
from rec.storage import Home
from rec.training import Fitted, TrainingTask

RUNS: Final = "runs"


@dataclass(frozen=True, slots=True)
class Runs:
    """The fits of one training run, each in a folder of its own below the run's.

    Attributes:
        folder: holds checkpoints, TensorBoard files and `run.json`: config, seed, versions, and hash of the data.
        config: of the run.
        resumed: whether what is there already is gone on from.
    """

    folder: Path
    config: TrainConfig
    resumed: bool

    @classmethod
    def begin(cls, home: Home, config: TrainConfig, dataset: Dataset) -> Self:
        """A run of its own name, its record written. Runs of a home in an object store are kept beside its cache."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
        folder = ((home.folder or home.cache) / RUNS / name).resolve()
        write_run_record(folder, config=config, seed=config.seed, data={"name": dataset.name, "sha256": dataset.sha256})
        return cls(folder, config, resumed=False)

    @classmethod
    def resume(cls, home: Home, name: str, config: TrainConfig, dataset: Dataset) -> Self:
        """The run of a name, refused unless it is of this config and these data."""
        folder = ((home.folder or home.cache) / RUNS / name).resolve()
        record = folder / RUN_FILE
        if not record.is_file():
            raise ConfigError(f"there is no run {name!r} to resume", file=str(record))
        values = json.loads(record.read_text(encoding="utf-8"))
        if values["data"]["sha256"] != dataset.sha256:
            raise ConfigError("the run was on other data; begin a new one", file=str(record), field="data")
        if TrainConfig.model_validate(values["config"]) != config:
            raise ConfigError("the run had another config; begin a new one", file=str(record), field="config")
        return cls(folder, config, resumed=True)

    def fit_retriever(self, ready: Prepared, period: int, *, epochs: int | None = None) -> Fitted:
        """Fits the two-tower model on what is before the beginning of a period.

        Stops early by what users went on to like in that period; where `epochs` is given, or the period is the test,
        it trains that long without looking.
        """
        config, end_ms = self.config, ready.period_starts[period]
        valid = None
        if epochs is None:
            liked = ready.split.train.between(end_ms, ready.period_starts[period + 1])
            valid = build_validation(snapshot_at(ready, config, end_ms), liked, history_length=history_length(config))
        train = ready.split.train
        data = build_retrieval_data(
            ready.dataset, ready.encoders, train, train, config.retriever.queries, end_ms=end_ms, valid=valid
        )
        task = RetrieverTask(data, config.retriever, config.training.batch_size, config.seed)
        training = config.training if epochs is None else config.training.model_copy(update={"epochs": epochs})
        return self.fit(task, training, f"retriever-{period}")

    def fit(self, task: TrainingTask, training: TrainingConfig, name: str) -> Fitted:
        """Fits a task in a folder of the run."""
        say(f"fitting {name}")
        return fit_on_ray(task, training, seed=self.config.seed, run_dir=self.folder / name, resume=self.resumed)


def say(message: str) -> None:
    """A line of progress, on stderr."""
    print(message, file=sys.stderr, flush=True)
