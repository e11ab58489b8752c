"""A search: Ray Tune runs the trials, Optuna proposes them, and each leaves a file of what came of it."""

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, cast

import optuna
import ray
import yaml
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray import tune as ray_tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from rec.config import Config, TrainConfig, load_config
from rec.data.dataset import Dataset
from rec.errors import ConfigError, TandemError, TrainingError
from rec.metrics import format_estimate
from rec.on_ray.cluster import ensure_ray
from rec.on_ray.train import print_epoch, write_run_record
from rec.run_files import RUN_FILE
from rec.runs import RUNS, Runs, run_folder, say
from rec.storage import Home
from tune.agents import JUDGES as AGENT_JUDGES
from tune.config import TuneConfig
from tune.objectives import JUDGES, epoch_score, judged_fit, refuse_unjudged
from tune.resources import concurrent_trials, reserved, workers_of
from tune.spaces import CONFIGS, PLACES, Space, Values
from tune.trials import FOLDER, Trial, Trials

SEARCH_FILE: Final = "search.yaml"
BASE_FILE: Final = "base.yaml"
SCORE: Final = "score"
EPOCH: Final = "epoch"
# How often a trial is run again whose process, or machine, was lost.
TIMES_LOST: Final = 3
_TUNER: Final = "tuner"
# Ray Tune keeps its state every second. What ended since tells its result from its own file, so that a kill loses no
# trial that ended. Ctrl-C is left to us.
_SETTINGS: Final = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True, slots=True)
class Search:
    """A search, and the folder that it is kept in.

    Attributes:
        folder: of the run, on the machine that the search is run from.
        config: of the search.
        base: what it begins from.
        space: what is searched.
        trials: what came of each, where all machines see it: in the folder, unless the home is an object store.
    """

    folder: Path
    config: TuneConfig
    base: Config
    space: Space
    trials: Trials

    @classmethod
    def of(cls, folder: Path, config: TuneConfig, base: Config, home: Home | None = None) -> Self:
        """A search that can be: every field is one of the base's, and the values go together.

        Args: home: that the folder belongs to.
        Raises: ConfigError: where they do not.
        """
        space = Space.of(config)
        if isinstance(base, TrainConfig):
            refuse_unjudged(base, config.judge, asha=config.scheduler == "asha")
        elif config.scheduler == "asha":
            raise ConfigError("asha stops by epochs, which agents have none of: take scheduler fifo", field="scheduler")
        space.refuse_impossible(base)
        if isinstance(base, TrainConfig) and base.training.use_gpu and not base.training.workers:
            raise ConfigError(
                "a trial without workers has no GPU: take training.workers of 1 or more", field="training.use_gpu"
            )
        if config.judge == "retriever" and "retriever.objective" in space.parameters:
            raise ConfigError(
                "retrievers of different objectives are judged by different metrics: take judge both, or policy",
                field="retriever.objective",
            )
        if isinstance(base, TrainConfig) and config.scheduler == "asha":
            _refuse_other_epochs(space, base, config)
        space.starts(base, config.starts)
        if home is None or home.folder is not None:
            return cls(folder, config, base, space, Trials.of(folder))
        return cls(folder, config, base, space, Trials(home, f"{RUNS}/{folder.name}"))

    def record(self, dataset: Dataset | None) -> None:
        """Writes what is searched, from what, on which data."""
        data = {} if dataset is None else {"name": dataset.name, "sha256": dataset.sha256}
        write_run_record(self.folder, config=self.config, seed=self.config.seed, data=data)
        write_config(self.folder / BASE_FILE, self.base)
        config = self.config.model_copy(update={"base": str(self.folder / BASE_FILE)})
        write_config(self.folder / SEARCH_FILE, config)

    @classmethod
    def recorded(cls, home: Home, name: str) -> Self:
        """The search of a name, to go on with.

        Raises: ConfigError: when there is none.
        """
        folder = run_folder(home, name)
        if not name or not (folder / SEARCH_FILE).is_file():
            raise ConfigError(f"there is no search {name!r} to resume", file=str(folder), field="resume")
        config = load_config(TuneConfig, folder / SEARCH_FILE)
        learner = Space.of(config).learner
        return cls.of(folder, config, load_config(CONFIGS[learner], folder / BASE_FILE), home)

    def require_same(self, dataset: Dataset | None) -> None:
        """Refuses to go on with other data.

        Raises: ConfigError: when they are.
        """
        begun = json.loads((self.folder / RUN_FILE).read_text(encoding="utf-8"))["data"].get("sha256")
        if begun != (None if dataset is None else dataset.sha256):
            raise ConfigError("the search was on other data; begin a new one", file=str(self.folder), field="resume")

    def run(self, dataset: Dataset | None) -> list[Trial]:
        """Runs the trials that are missing; returns all, the best first.

        Args: dataset: what training learns from; agents have none.
        Raises: TrainingError: when no trial finished. ConfigError: when not even one trial has the CPUs it takes.
        """
        os.environ.update(_SETTINGS)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        workers = workers_of(self.base)
        ensure_ray(1 + workers)
        cpus = self.config.cpus or ray.cluster_resources().get("CPU", 0)
        side_by_side = concurrent_trials(cpus, workers, self.config.concurrent)
        trial = ray_tune.with_parameters(partial(run_trial, search=self), dataset=dataset)
        trainable = ray_tune.with_resources(trial, PlacementGroupFactory(reserved(self.base)))
        path = str(self.folder / _TUNER)
        if ray_tune.Tuner.can_restore(path):
            self._forgive()
            # Resumed and not restarted: they keep their names, which their files go by.
            tuner = ray_tune.Tuner.restore(path, trainable, resume_unfinished=True, resume_errored=True)
            told = "as many side by side as when it began"
        else:
            tuner = self._tuner(trainable, side_by_side)
            told = f"{side_by_side} side by side"
        say(f"search {self.folder.name}: {self.config.trials} trials, {told}, in {self.folder}")
        tuner.fit()
        trials = self.trials.all()
        if not any(each.measured for each in trials):
            why = next((each.error for each in trials if each.error), "all of them were stopped")
            raise TrainingError(f"none of the {len(trials)} trials finished: {why}", file=str(self.folder))
        return trials

    def _forgive(self) -> None:
        """Lets trials that failed be tried again."""
        for trial in self.trials.all():
            if trial.state == "failed":
                self.trials.write(replace(trial, state="running", error=None))

    def _tuner(self, trainable: Any, side_by_side: int) -> ray_tune.Tuner:
        config, starts = self.config, self.space.starts(self.base, self.config.starts)
        searcher = OptunaSearch(
            space=self.space.distributions(),
            metric=SCORE,
            mode="max",
            sampler=SAMPLERS[config.sampler](config.seed),
            points_to_evaluate=[self.space.encoded(start) for start in starts],
        )
        return ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                search_alg=searcher,
                scheduler=self.scheduler(),
                num_samples=config.trials,
                max_concurrent_trials=side_by_side,
            ),
            run_config=ray_tune.RunConfig(
                name=_TUNER,
                storage_path=str(self.folder),
                verbose=0,
                callbacks=[_Told(self)],
                failure_config=ray_tune.FailureConfig(max_failures=TIMES_LOST),
            ),
        )

    def scheduler(self) -> TrialScheduler:
        """What stops trials early, if anything."""
        if self.config.scheduler == "fifo":
            return FIFOScheduler()
        return AsyncHyperBandScheduler(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=cast(TrainConfig, self.base).training.epochs + 1,
            grace_period=self.config.grace_epochs,
            reduction_factor=self.config.reduction_factor,
        )


class _Told(ray_tune.Callback):
    """Says what came of each trial, and writes it where the trial's process could not."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        found = self._search.trials.read(trial.trial_id)
        assert found is not None
        if found.measured is None:
            self._search.trials.write(replace(found, state="stopped"))
            say(f"trial {found.name} was stopped")
        else:
            say(f"trial {found.name}: {found.measured.metric} {format_estimate(asdict(found.measured))} {found.values}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # What failed by itself, and not with its process, would fail again; its next start says only that.
        found = self._search.trials.read(trial.trial_id)
        if found is not None and found.state == "failed":
            trial.max_failures = 0

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drawn = self._search.space.decoded(trial.config)
        found = self._search.trials.read(trial.trial_id) or Trial(trial.trial_id, drawn)
        if found.state != "failed":
            found = replace(found, state="failed", error="its process was lost")
            self._search.trials.write(found)
        say(f"trial {found.name} failed: {found.error} ({trial.error_file})")


def _tpe(seed: int) -> BaseSampler:
    # With trials side by side, those that run count as bad ones, so that no two try the same.
    return TPESampler(seed=seed, constant_liar=True, n_startup_trials=5)


SAMPLERS: Final = {"tpe": _tpe, "random": lambda seed: RandomSampler(seed=seed)}


def run_trial(drawn: Values, *, search: Search, dataset: Dataset | None) -> None:
    """One trial, in a process of Ray Tune's: what finished already is told again, what was cut off goes on."""
    name = ray_tune.get_context().get_trial_id()
    folder, trials = search.folder / FOLDER / name, search.trials
    before = trials.read(name)
    if before is not None and before.measured is not None:
        _report(before.measured.score, len(before.epochs) + 1)
        return
    if before is not None and before.state == "failed":
        # Ray Tune runs again whatever failed, once before it is told not to.
        raise TrainingError(before.error or "the trial failed")
    epochs = [] if before is None else list(before.epochs)
    attempts = 1 if before is None else 1 + before.attempts
    trial = Trial(name, search.space.decoded(drawn), epochs=tuple(epochs), attempts=attempts)
    trials.write(trial)
    began = time.perf_counter()
    try:
        config = search.space.configured(search.base, trial.values)
        if isinstance(config, TrainConfig):
            assert dataset is not None

            def on_epoch(fit: str, metrics: dict[str, float]) -> None:
                print_epoch(metrics)
                if search.config.judge == "retriever" and fit == judged_fit(config):
                    # A fit that goes on may do epochs again that were told already.
                    epoch = int(metrics[EPOCH])
                    epochs[epoch - 1 :] = [epoch_score(config, metrics)]
                    trials.write(replace(trial, epochs=tuple(epochs)))
                    _report(max(epochs), epoch)

            place = trials.home.place(trials.name(name))
            runs = Runs(folder, config, resumed=before is not None, on_epoch=on_epoch, place=place)
            judged = JUDGES[search.config.judge](dataset, config, runs)
        else:
            learner = search.space.learner
            assert learner != "train"
            judged = AGENT_JUDGES[learner](config, folder, search.config.sessions, search.config.seed)
    except Exception as error:
        told = str(error) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
        trials.write(replace(trial, state="failed", epochs=tuple(epochs), error=told))
        raise
    seconds, measured = time.perf_counter() - began, judged.measured
    if judged.each is not None:
        trials.write_each(name, judged.each)
    trials.write(replace(trial, state="finished", measured=measured, epochs=tuple(epochs), seconds=round(seconds, 1)))
    _report(measured.score, len(epochs) + 1)


def _report(score: float, epoch: int) -> None:
    ray_tune.report({SCORE: score, EPOCH: epoch})


def _refuse_other_epochs(space: Space, base: TrainConfig, config: TuneConfig) -> None:
    """ASHA compares trials of as many epochs, more than it lets each have."""
    if "training.epochs" in space.parameters:
        raise ConfigError("asha decides how many epochs a trial has: set them in the base", field="training.epochs")
    if config.grace_epochs > base.training.epochs:
        raise ConfigError(
            f"asha lets each trial have {config.grace_epochs} epochs, and the base has {base.training.epochs}: take "
            "fewer, or more training.epochs",
            field="grace_epochs",
        )


def write_config(file: Path, config: Config) -> None:
    """Writes a config as the YAML that `--config` takes, without where its run goes."""
    plain = config.model_dump(mode="json", exclude=set(PLACES))
    file.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
