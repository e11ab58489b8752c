"""Whether a search over cap, floor and alpha of the two-stage loss beats the paper's setting: MovieLens-1M, 2-IPS.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/tune_two_stage.py
        Finished runs are kept in the cache and never done again, so an interrupted benchmark goes on where it was; the
        result says which commits did the runs.
World:  that of two_stage_movielens.py --reference: the released simulator, ranker and logging policy.
Search: the spaces `capping` and `alpha` of `tandem tune`, sampled by TPE, the paper's setting first. Each trial fits a
        generator to one log, the same for all, and is judged by two-stage Precision@10 of the 2,000 validation users,
        at its best of ten epochs, half as many as in the test. The best few are fitted to another log, and the mean
        over both decides. What test users find relevant is not read.
Judged: the setting found and the paper's, on other logs: one log and one seed a pair, the epoch chosen by the
        validation users, Precision@10 of the test users behind the ranker. The difference is paired, over logs.
Expect: labels once, about a minute; then half a minute of one core a run of the search, a minute one of the test.
Writes: benchmarks/results/tune_two_stage.json and .png
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Final

# Before torch is loaded, as in two_stage_movielens.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import matplotlib.pyplot as plt
import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, quality_result, summary_row, write_result
from two_stage.evaluation import METRIC_NAMES, Judge
from two_stage.logged import draw_log
from two_stage.recipes import CHECKED, policy_gradient
from two_stage.runs import Runs, commits
from two_stage.training import EPOCHS, two_stage
from two_stage_movielens import judges_of, world_of

from rec.metrics import METRICS, format_difference, paired_difference, parse_metric
from rec.storage import Home
from tune.config import TuneConfig
from tune.report import importances
from tune.search import SAMPLERS
from tune.spaces import Space
from tune.trials import Measured, Trial

NAME: Final = "tune_two_stage"
PAPER: Final = {"off_policy.max_weight": 10.0, "off_policy.min_weight": 0.01, "off_policy.alpha": 0.01}
SEARCH_SEED: Final = 100
# Of logs, and of the fits to them: the first is searched on, the others decide between the finalists.
SEARCH_LOGS: Final = (100, 101)
SEARCH_EPOCHS: Final = 10


@dataclass(frozen=True, slots=True)
class JudgeOfEach(Judge):
    """A judge that says of each user what decides, so that settings are compared by the same users."""

    def judge(self, lists: Tensor) -> dict[str, Any]:
        """Also CHECKED of each user, as `each`, and its standard error over users, `std_error`."""
        kind, k = parse_metric(CHECKED)
        hit = self.relevant.gather(1, lists).numpy()
        each: NDArray[np.float64] = METRICS[kind](hit, self.relevant.sum(dim=1).numpy(), k)
        # Not super(): a dataclass with slots is another class than the one this method was written in.
        std_error = float(each.std(ddof=1) / len(each) ** 0.5)
        return {**Judge.judge(self, lists), "std_error": std_error, "each": each.tolist()}


class Experiment:
    """Runs of the experiment, each done once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.runs = Runs(cache / f"{NAME}.jsonl")
        self.used: list[dict[str, Any]] = []
        self._world: Any = None
        self._logs: dict[int, Any] = {}

    def run(self, stage: str, values: dict[str, float], log: int) -> dict[str, Any]:
        """Metrics of a generator, of test users where the stage is `test`. A log is known by its seed, the fit's."""
        epochs = EPOCHS if stage == "test" else SEARCH_EPOCHS
        settings = {"stage": stage, **values, "log": log, "epochs": epochs}
        found = self.runs.find(settings)
        if found is None:
            objective = partial(two_stage, **{name.split(".")[1]: value for name, value in values.items()})
            world, logged, valid, test = self._log(log)
            judge = test if stage == "test" else valid
            fitted = policy_gradient(world, logged, log, valid, judge, objective=objective, epochs=epochs)
            found = {"settings": settings, "valid": fitted.valid, "epoch": fitted.epoch, "seconds": fitted.seconds}
            if stage == "test":
                found |= {"one-stage": fitted.one_stage, "two-stage": fitted.two_stage}
            self.runs.append(found)
            found = self.runs.find(settings)
            assert found is not None
        if found in self.used:
            return found
        self.used.append(found)
        shown = "  ".join(f"{name.split('.')[1]} {value:.4g}" for name, value in values.items())
        told = found["two-stage"][CHECKED] if stage == "test" else found["valid"][CHECKED]
        print(f"{stage} log {log}: {shown}  {100 * told:.2f}  {found['seconds']:.0f} s", flush=True)
        return found

    def _log(self, log: int) -> tuple[Any, Any, Judge, Judge]:
        self._world = self._world or world_of(True, self.cache)
        if log not in self._logs:
            logged = draw_log(self._world, log, "draw")
            valid, test = judges_of(self._world, logged)
            of_each = JudgeOfEach(valid.users, valid.relevant, valid.clicked, valid.ranker_logits, valid.metrics)
            # One at a time: each holds tables of all users and items.
            self._logs = {log: (self._world, logged, of_each, test)}
        return self._logs[log]


def main() -> None:
    """Searches, judges the best, and prints and writes both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--finalists", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5, help="logs, each with a seed of its own")
    parser.add_argument("--cache", type=Path, help="of labels and finished runs; by default in the home")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cache = (options.cache or (Home().folder or Path(".tandem")) / "benchmarks") / "two_stage_movielens"
    experiment = Experiment(cache)
    space = Space.of(TuneConfig(spaces=("capping", "alpha")))
    trials = search(experiment, space, options.trials)
    finalists = decide(experiment, trials[: options.finalists])
    rows = compare(experiment, finalists[0]["values"], options.pairs)
    write(experiment, space, trials, finalists, rows, options)


def search(experiment: Experiment, space: Space, n_trials: int) -> list[Trial]:
    """The trials, the best first."""
    study = optuna.create_study(direction="maximize", sampler=SAMPLERS["tpe"](SEARCH_SEED))
    study.enqueue_trial(space.encoded(PAPER))
    trials: list[Trial] = []
    for place in range(n_trials):
        asked = study.ask(space.distributions())
        values = space.decoded(asked.params)
        found = experiment.run("search", values, SEARCH_LOGS[0])["valid"]
        study.tell(asked, found[CHECKED])
        measured = Measured(CHECKED, found[CHECKED], found["std_error"], len(found["each"]), found[CHECKED])
        trials.append(Trial(f"{place:03d}", values, "finished", measured))
    return sorted(trials, key=lambda trial: -score(trial))


def score(trial: Trial) -> float:
    """What decides."""
    assert trial.measured is not None
    return trial.measured.score


def decide(experiment: Experiment, best: Sequence[Trial]) -> list[dict[str, Any]]:
    """Rows of some trials with the mean of validation over all logs of the search, the best first."""
    rows = []
    for trial in best:
        each = [experiment.run("search", trial.values, log)["valid"][CHECKED] for log in SEARCH_LOGS]
        rows.append({"model": "finalist", "values": trial.values, "by_log": each, "metrics": {CHECKED: mean(each)}})
    return sorted(rows, key=lambda row: -row["metrics"][CHECKED])


def compare(experiment: Experiment, best: dict[str, float], n_pairs: int) -> list[dict[str, Any]]:
    """Test rows of the setting found and of the paper's, by pair."""
    rows = []
    for pair in range(n_pairs):
        for model, values in (("found", best), ("paper", PAPER)):
            run = experiment.run("test", values, pair)
            metrics = {f"two-stage {name}": run["two-stage"][name] for name in METRIC_NAMES}
            metrics |= {f"one-stage {name}": run["one-stage"][name] for name in METRIC_NAMES}
            rows.append({"model": model, "seed": pair, "log": pair, "epoch": run["epoch"], "metrics": metrics})
    return rows


def write(
    experiment: Experiment,
    space: Space,
    trials: list[Trial],
    finalists: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Prints the verdict and writes the files."""
    best = trials[0].measured
    assert best is not None and best.std_error is not None
    differences = {}
    for name in (f"{stage} {metric}" for stage in ("two-stage", "one-stage") for metric in METRIC_NAMES):
        ours, theirs = (
            np.array([row["metrics"][name] for row in rows if row["model"] == model]) for model in ("found", "paper")
        )
        gained = ours - theirs
        std_error = float(gained.std(ddof=1) / len(gained) ** 0.5)
        paired = paired_difference(ours, theirs).to_json()
        beyond = bool(abs(gained.mean()) > 2 * std_error)
        differences[name] = {**paired, "std_error": std_error, "beyond_two_std_errors": beyond}
        print(f"found - paper, {name}: {format_difference(paired)}, std error {std_error:.4f}")
    near = [trial for trial in trials if is_near(experiment, trial, trials[0])]
    print(f"best trial on validation {best.value:.4f} ± {best.std_error:.4f} by {trials[0].values}")
    print(f"{len(near)} of {len(trials)} trials are within two standard errors of it, paired by user")
    print(f"found {finalists[0]['values']}, over {len(SEARCH_LOGS)} logs {finalists[0]['metrics'][CHECKED]:.4f}")
    result = quality_result(
        NAME,
        protocol={
            "trials": options.trials,
            "pairs": options.pairs,
            "search": {
                "seed": SEARCH_SEED,
                "logs": SEARCH_LOGS,
                "epochs": SEARCH_EPOCHS,
                "sampler": "tpe",
                "metric": f"two-stage {CHECKED}, valid",
            },
            "paper": PAPER,
            "found": finalists[0]["values"],
            "within_two_std_errors_by_user": len(near),
            "importance": importances(space, trials),
            "commits_of_runs": commits(experiment.used),
        },
        rows=[*({"model": "trial", **told(trial)} for trial in trials), *finalists, *rows],
        summary=[summary_row(model, name, rows) for model in ("found", "paper") for name in differences],
    )
    write_result({**result, "paired": differences})
    plot(space, trials)


def is_near(experiment: Experiment, trial: Trial, best: Trial) -> bool:
    """Whether the validation users, by whom both were judged, do not tell a trial from the best."""
    ours, theirs = (
        np.array(experiment.run("search", each.values, SEARCH_LOGS[0])["valid"]["each"]) for each in (best, trial)
    )
    gained = ours - theirs
    return bool(gained.mean() <= 2 * gained.std(ddof=1) / len(gained) ** 0.5)


def told(trial: Trial) -> dict[str, Any]:
    """A row of the search."""
    assert trial.measured is not None
    metrics = {CHECKED: trial.measured.value, "std_error": trial.measured.std_error}
    return {"seed": SEARCH_LOGS[0], "log": SEARCH_LOGS[0], "values": trial.values, "metrics": metrics}


def plot(space: Space, trials: list[Trial]) -> None:
    """What validation said of each value of each field."""
    figure, axes = plt.subplots(1, len(space.parameters), figsize=(12, 4), sharey=True)
    for axis, name in zip(axes, space.parameters, strict=True):
        values = [trial.values[name] for trial in trials]
        errors = [2 * (trial.measured.std_error or 0.0) for trial in trials if trial.measured is not None]
        axis.errorbar(values, [score(trial) for trial in trials], yerr=errors, fmt="o", capsize=2, label="trials")
        axis.axvline(PAPER[name], linestyle=":", color="gray", label="the paper's")
        axis.set(xscale="log", xlabel=name)
    axes[0].set_ylabel(f"{CHECKED} on validation, ± 2 std errors")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(FOLDER / f"{NAME}.png", dpi=110)


if __name__ == "__main__":
    main()
