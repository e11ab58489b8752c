"""Training runs: a folder with a record of what was run on what, and the fits in it."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Final, Self

from torch import Tensor

from rec.config import TrainConfig, TrainingConfig, parse_config
from rec.data.dataset import Dataset
from rec.errors import ConfigError
from rec.on_ray.train import print_epoch, write_run_record
from rec.on_ray.train import train as fit_on_ray
from rec.run_files import RUN_FILE
from rec.storage import Home, Place, refuse_credentials
from rec.training import Fitted, TrainingTask

RUNS: Final = "runs"
OnFitEpoch = Callable[[str, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Runs:
    """The fits of one training run, each in a folder of its own below the run's.

    Attributes:
        folder: holds checkpoints, TensorBoard files and `run.json`: config, seed, versions, and hash of the data.
        config: of the run.
        resumed: whether what is there already is gone on from.
        on_epoch: told the name of the fit, and its metrics, after each epoch.
        place: where the checkpoints of workers go where the home is an object store, as they need not share a disk.
        doubts: what makes the fits doubtful, so far.
    """

    folder: Path
    config: TrainConfig
    resumed: bool
    on_epoch: OnFitEpoch = lambda name, metrics: print_epoch(metrics)
    place: Place | None = None
    doubts: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def begin(cls, home: Home, config: TrainConfig, dataset: Dataset, name: str | None = None) -> Self:
        """A run of its own name, its record written. Runs of a home in an object store are kept beside its cache."""
        name = name or new_run_name()
        folder = run_folder(home, name)
        write_run_record(folder, config=config, seed=config.seed, data={"name": dataset.name, "sha256": dataset.sha256})
        return cls(folder, config, resumed=False, place=home.place(f"{RUNS}/{name}"))

    @classmethod
    def resume(cls, home: Home, name: str, config: TrainConfig, dataset: Dataset) -> Self:
        """The run of a name, refused unless it is of this config and these data."""
        record = _record(home, name)
        recorded, data = _recorded(record)
        if data != dataset.sha256:
            raise ConfigError("the run was on other data; begin a new one", file=str(record), field="data")
        if recorded != config:
            raise ConfigError("the run had another config; begin a new one", file=str(record), field="config")
        return cls(record.parent, config, resumed=True, place=home.place(f"{RUNS}/{name}"))

    def doubt(self, text: str) -> None:
        """Says what makes a fit doubtful, and keeps it for the answer."""
        say(f"warning: {text}")
        self.doubts.append(text)

    def fit(
        self,
        task: TrainingTask,
        training: TrainingConfig,
        name: str,
        *,
        init_from: Mapping[str, Tensor] | None = None,
    ) -> Fitted:
        """Fits a task in a folder of the run. init_from: weights to begin with."""
        say(f"fitting {name}, {training.epochs} epochs at most")
        return fit_on_ray(
            task,
            training,
            seed=self.config.seed,
            run_dir=self.folder / name,
            resume=self.resumed,
            init_from=init_from,
            on_epoch=partial(self.on_epoch, name),
            place=self.place,
        )


def require_publishable(config: TrainConfig) -> None:
    """Refuses a config that holds credentials: it is kept in `run.json` and in the bundle.

    Raises: ConfigError: naming the field.
    """
    refuse_credentials(config.data.path, "data.path")
    refuse_credentials(config.sources.batch, "sources.batch")


def new_run_name() -> str:
    """A name that no other run has; names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"


def run_folder(home: Home, name: str) -> Path:
    """Of the run of a name: of a home in an object store it is beside the cache."""
    return ((home.folder or home.cache) / RUNS / name).resolve()


def has_run(home: Home, name: str) -> bool:
    """Whether there is a run of this name that can be resumed."""
    return (run_folder(home, name) / RUN_FILE).is_file()


def recorded_config(home: Home, name: str) -> TrainConfig:
    """The config of the run of a name.

    Raises: ConfigError: when there is none, or it is damaged, or of another version or another command.
    """
    return _recorded(_record(home, name))[0]


def _recorded(record: Path) -> tuple[TrainConfig, str]:
    """The config of a run, and the sha256 of its data, from `run.json`."""
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        config, data = values["config"], values["data"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("this is no record of `tandem train`; begin a new run", file=str(record)) from error
    try:
        return parse_config(TrainConfig, config), data
    except ConfigError as error:
        raise ConfigError(
            f"the run is of another version or another command: {error.message}; begin a new one",
            file=str(record),
            field=f"config.{error.field}" if error.field else "config",
        ) from error


def _record(home: Home, name: str) -> Path:
    if not name:
        raise ConfigError("the name of a run is required, as in HOME/runs; found an empty one", field="resume")
    record = run_folder(home, name) / RUN_FILE
    if not record.is_file():
        raise ConfigError(f"there is no run {name!r} to resume", file=str(record))
    return record


def say(message: str) -> None:
    """A line of progress, on stderr."""
    print(message, file=sys.stderr, flush=True)
