"""Searches run by Ray Tune: they end, go on after a kill, and say what they found."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from ray.tune.schedulers import TrialScheduler

from rec.cli.data import read
from rec.config import TrainConfig, load_config
from rec.errors import ConfigError
from rec.storage import Home
from tests.processes import MARK, marked
from tune.config import ParameterConfig, TuneConfig, TuneOptions
from tune.search import Search
from tune.trials import FOLDER, Trials

BASE = {
    "retriever": {"output_dim": 8, "queries": {"min_batches": 3}},
    "training": {"workers": 0, "epochs": 3},
    "ranker": {"n_candidates": 60},
}


pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file that `tandem train --config` takes, of a small world."""
    world, file = tmp_path / "world.yaml", tmp_path / "base.yaml"
    world.write_text("n_users: 60\nn_videos: 200\nsessions_per_user: 8\n", encoding="utf-8")
    file.write_text(yaml.safe_dump({"data": {"path": str(world)}, **BASE}), encoding="utf-8")
    return file


def search_of(folder: Path, base: Path, **changed: Any) -> tuple[Search, Any]:
    """A search from a base, and its data."""
    config = load_config(TrainConfig, base)
    training = config.training.model_copy(update=changed.pop("training", {}))
    config = config.model_copy(update={"training": training})
    search = Search.of(folder, TuneConfig(**{"spaces": ("learning",), "trials": 3, **changed}), config)
    data = read(config.data)
    search.record(data)
    return search, data


def test_parameters_and_starts_come_from_a_file(tmp_path: Path):
    file = tmp_path / "search.yaml"
    file.write_text(
        "parameters: {retriever.output_dim: {choices: [8, 16]}, training.learning_rate: {low: 0.001, high: 0.1}}\n"
        "starts: [{retriever.output_dim: 16}]\ntrials: 3\n",
        encoding="utf-8",
    )
    options = load_config(TuneOptions, file)
    assert options.parameters["retriever.output_dim"].choices == (8, 16)
    assert options.starts == ({"retriever.output_dim": 16},)


def test_a_search_that_is_not_there_cannot_be_gone_on_with(tmp_path: Path):
    for name in ("", "none"):
        with pytest.raises(ConfigError, match="there is no search"):
            Search.recorded(Home(tmp_path), name)


def test_a_search_goes_on_as_it_was_recorded_and_on_the_same_data(tmp_path: Path, base: Path):
    search, data = search_of(tmp_path / "runs" / "one", base, seed=5)
    again = Search.recorded(Home(tmp_path), "one")
    assert again.config.model_copy(update={"base": None}) == search.config
    assert again.base == search.base
    again.require_same(data)
    with pytest.raises(ConfigError, match="on other data"):
        again.require_same(None)


@pytest.mark.parametrize(
    ("base", "searched", "field"),
    [
        ({"training": {"workers": 0, "use_gpu": True}}, "training.learning_rate", "training.use_gpu"),
        ({}, "retriever.objective", "retriever.objective"),
    ],
)
def test_what_trials_cannot_have_or_compare_is_refused(tmp_path: Path, base, searched, field):
    choices = {"training.learning_rate": (1e-3, 1e-2), "retriever.objective": ("logq", "ips")}[searched]
    config = TuneConfig(parameters={searched: ParameterConfig(choices=choices)})
    with pytest.raises(ConfigError) as refused:
        Search.of(tmp_path, config, TrainConfig.model_validate(base))
    assert refused.value.field == field


@pytest.mark.parametrize("spaces", [("dqn",), ("drr",)])
def test_agents_have_no_epochs_to_be_stopped_by(tmp_path: Path, spaces):
    from tune.spaces import CONFIGS

    with pytest.raises(ConfigError, match="agents have none of"):
        Search.of(tmp_path, TuneConfig(spaces=spaces, scheduler="asha"), CONFIGS[spaces[0]]())


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"grace_epochs": 50}, "grace_epochs"),
        ({"spaces": (), "parameters": {"training.epochs": {"low": 2, "high": 9}}}, "training.epochs"),
    ],
)
def test_asha_stops_within_the_epochs_of_the_base(tmp_path: Path, changed, field):
    config = TuneConfig(**{"spaces": ("learning",), "scheduler": "asha", **changed})
    with pytest.raises(ConfigError, match="asha") as refused:
        Search.of(tmp_path, config, TrainConfig())
    assert refused.value.field == field


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_base_is_tried_first_and_every_trial_is_kept(tmp_path: Path, base: Path, sampler, ray_session):
    search, data = search_of(tmp_path / "search", base, sampler=sampler, concurrent=1)
    trials = search.run(data)
    assert [trial.state for trial in trials] == ["finished"] * 3
    assert search.space.base_values(search.base) in [trial.values for trial in trials]
    assert trials == sorted(trials, key=lambda trial: -trial.measured.score)
    assert all(trial.measured.std_error > 0 and len(trial.epochs) == 3 for trial in trials)


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [None, 4])
def test_trials_with_workers_of_ray_train_end_on_two_cpus(tmp_path: Path, base: Path, ray_session, cpus):
    """Also of a cluster that had four when it was asked, half of which is gone: fits are made in turn."""
    training = {"workers": 1, "epochs": 1}
    search, data = search_of(tmp_path / "search", base, training=training, concurrent=4, trials=2, cpus=cpus)
    assert [trial.state for trial in search.run(data)] == ["finished"] * 2


@pytest.mark.slow
def test_trials_that_count_neighbours_wait_for_no_cpu(tmp_path: Path, base: Path, ray_session):
    """Tasks of their own, which a training has, would find none: the trial holds it."""
    config = load_config(TrainConfig, base)
    sources = config.sources.model_copy(update={"quotas": {"swing": 5}, "tasks": 2})
    search = Search.of(
        tmp_path / "search",
        TuneConfig(spaces=("learning",), trials=1, judge="both"),
        config.model_copy(update={"sources": sources}),
    )
    data = read(config.data)
    search.record(data)
    assert [trial.state for trial in search.run(data)] == ["finished"]


def test_asha_lets_one_of_three_go_on_after_each_rung(tmp_path: Path):
    """Scores that rise from trial to trial or fall, in turn: those that are worse than two thirds are stopped."""
    base = TrainConfig.model_validate({"training": {"epochs": 20}})
    config = TuneConfig(spaces=("learning",), scheduler="asha", grace_epochs=2, reduction_factor=3)
    scheduler = Search.of(tmp_path, config, base).scheduler()
    scheduler.set_search_properties(None, None)
    scores = np.random.default_rng(0).permutation(300)
    on = []
    for score in scores.tolist():
        trial: Any = SimpleNamespace(trial_id=str(score))
        scheduler.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        answers = [
            scheduler.on_trial_result(None, trial, {"score": score, "epoch": epoch})  # pyright: ignore[reportArgumentType]
            for epoch in (1, 2)
        ]
        assert answers[0] == TrialScheduler.CONTINUE
        on.append(answers[1] == TrialScheduler.CONTINUE)
    went_on = scores[np.array(on)]
    assert 0.25 < len(went_on) / len(scores) < 0.45
    assert went_on.mean() > 240


@pytest.mark.slow
def test_what_asha_stops_was_worse_and_is_told_apart(tmp_path: Path, base: Path, ray_session):
    search, data = search_of(tmp_path / "search", base, trials=5, scheduler="asha", reduction_factor=2, concurrent=1)
    trials = search.run(data)
    assert len(trials) == 5 and {trial.state for trial in trials} <= {"finished", "stopped"}
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert all(max(trial.epochs) < max(trials[0].epochs) and trial.measured is None for trial in stopped)


@pytest.mark.slow
def test_trials_that_fail_say_why_and_the_others_go_on(tmp_path: Path, base: Path, ray_session):
    search, data = search_of(
        tmp_path / "search",
        base,
        spaces=(),
        parameters={"training.learning_rate": {"choices": [2e-3, 1e30]}},
        starts=({"training.learning_rate": 1e30},),
        trials=2,
    )
    trials = search.run(data)
    assert [trial.state for trial in trials] == ["finished", "failed"]
    assert "the loss of epoch" in (trials[1].error or "")
    assert [trial.attempts for trial in trials] == [1, 1], "what failed by itself is not tried again"
    # A search that goes on tries it once more, and keeps it where it was.
    again = search.run(data)
    assert [(trial.name, trial.state) for trial in again] == [(trial.name, trial.state) for trial in trials]
    assert [trial.attempts for trial in again] == [1, 2] and again[1].error == trials[1].error


def _started(mark: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "from rec.cli import entry; entry()", "tune", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _finished(search: Path) -> dict[str, str]:
    """What the files of the finished trials hold, by trial."""
    return {
        trial.name: (search / FOLDER / trial.name / "trial.json").read_text(encoding="utf-8")
        for trial in Trials.of(search).all()
        if trial.state == "finished"
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_search_goes_on_and_loses_at_most_the_running_trials(tmp_path: Path, base: Path):
    home, mark, n = tmp_path / "home", uuid.uuid4().hex, 4
    options = ["--spaces", "learning", "--trials", str(n), "--base", str(base), "--home", str(home)]
    process = _started(mark, *options)
    deadline = time.monotonic() + 800
    searches: list[Path] = []
    while process.poll() is None and time.monotonic() < deadline:
        searches = list((home / "runs").glob("*"))
        if searches and _finished(searches[0]):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    for other in marked(mark):
        other.kill()
    assert len(searches) == 1, told
    search = searches[0]
    before, known = _finished(search), Trials.of(search).all()
    assert 1 <= len(before) < n, told
    running = [trial.name for trial in known if trial.state == "running"]

    again = _started(uuid.uuid4().hex, "--resume", search.name, "--home", str(home))
    out, told = again.communicate(timeout=800)
    assert again.returncode == 0, told
    answer = json.loads(out.splitlines()[-1])
    after = _finished(search)
    assert {name: after[name] for name in before} == before
    assert len(after) == n == answer["trials"]["finished"]
    # What was running is done again, or the trial in its place; nothing else is.
    assert len(Trials.of(search).all()) <= n + len(running)
    best = load_config(TrainConfig, answer["config"])
    found = Trials.of(search).read(answer["best"]["trial"])
    assert found is not None and found.measured is not None
    assert found.measured.score == max(trial.measured.score for trial in Trials.of(search).all() if trial.measured)
    assert best.training.learning_rate == found.values["training.learning_rate"]
