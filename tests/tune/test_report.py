"""The report of a search: its best config is one that training takes, and importance follows what matters."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rec.cli import parse
from rec.cli.training import TrainOptions
from rec.config import TrainConfig, default_home, load_config
from rec.storage import Home
from tune.config import TuneConfig
from tune.report import again_commands, importances, indistinguishable, write_report
from tune.search import Search
from tune.spaces import SPACES
from tune.trials import Measured, Trial, Trials


def measured(value: float, std_error: float = 0.01) -> Measured:
    return Measured("ndcg@10", value, std_error, 100, value)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    config = TuneConfig(spaces=("learning", "towers"), trials=12)
    base = TrainConfig.model_validate({"data": {"name": "csv", "path": "/data/a"}, "training": {"workers": 0}})
    made = Search.of(tmp_path, config, base)
    made.record(None)
    return made


def drawn(search: Search, n: int, score) -> list[Trial]:
    """Trials of random values, scored by a function of these."""
    rng = np.random.default_rng(0)
    trials = []
    for place in range(n):
        values = {}
        for name, parameter in search.space.parameters.items():
            if parameter.choices:
                values[name] = parameter.choices[rng.integers(len(parameter.choices))]
            else:
                values[name] = float(np.exp(rng.uniform(np.log(parameter.low), np.log(parameter.high))))
        trials.append(Trial(f"{place:02d}", values, "finished", measured(score(values)), (0.1,), 3.0))
    return sorted(trials, key=lambda trial: -trial.measured.score)


def by_rate(values: dict) -> float:
    """Best at a learning rate of 2e-3, whatever the rest."""
    return -abs(np.log(values["training.learning_rate"] / 2e-3))


def test_the_best_config_is_what_train_takes(search):
    trials = drawn(search, 12, by_rate)
    answer = write_report(search, trials, default_home())
    best = load_config(TrainConfig, answer["config"])
    assert search.space.base_values(best) == trials[0].values
    assert best.data == search.base.data
    options = load_config(TrainOptions, answer["config"])
    assert TrainConfig.model_validate(options.model_dump(include=set(TrainConfig.model_fields))) == best
    assert answer["best"]["values"] == trials[0].values


def test_a_search_is_run_again_by_its_record(search):
    again, use = again_commands(search, default_home())
    assert again == f"tandem tune --config {search.folder}/search.yaml"
    assert use == f"tandem train --config {search.folder}/best.yaml"
    config = load_config(TuneConfig, search.folder / "search.yaml")
    assert config.model_copy(update={"base": None}) == search.config
    assert load_config(TrainConfig, config.base) == search.base


@pytest.mark.parametrize("home", ["./else where", "s3://bucket/a?region=b&c"])
def test_what_follows_a_search_stays_in_its_home(search, home):
    place = home if home.startswith("s3:") else str(Path.cwd() / "else where")
    answer = write_report(search, drawn(search, 2, by_rate), home)
    for command in (answer["again"], answer["use"]):
        program, name, *arguments = shlex.split(command)
        assert (program, parse(name, arguments).home) == ("tandem", place)


def test_the_table_and_the_plots_hold_every_trial(search):
    trials = [*drawn(search, 12, by_rate), Trial("aa", drawn(search, 1, by_rate)[0].values, "failed", error="<boom>")]
    answer = write_report(search, trials, default_home())
    table = pd.read_csv(search.folder / "trials.csv")
    assert list(table["trial"]) == [trial.name for trial in trials]
    assert table["std_error"].notna().sum() == 12
    assert answer["trials"] == {"finished": 12, "stopped": 0, "failed": 1}
    page = Path(answer["report"]).read_text(encoding="utf-8")
    assert "parcoords" in page and "PED-ANOVA" in page and "tandem train --config" in page
    assert all(trial.name in page for trial in trials)


def test_importance_follows_what_matters(search):
    found = importances(search.space, drawn(search, 200, by_rate))
    assert found.keys() == search.space.parameters.keys()
    assert sum(found.values()) == pytest.approx(1)
    assert found["training.learning_rate"] > 0.5


def test_few_trials_say_nothing_of_importance(search):
    trials = drawn(search, 9, by_rate)
    assert importances(search.space, trials) == {}
    page = Path(write_report(search, trials, default_home())["report"]).read_text(encoding="utf-8")
    assert "PED-ANOVA" not in page and "from 10 trials that finished" in page
    assert importances(SPACES["alpha"], []) == {}


def test_trials_within_two_standard_errors_of_the_best_are_told(search):
    values = drawn(search, 1, by_rate)[0].values
    trials = [Trial("a", values, "finished", measured(value)) for value in (0.5, 0.481, 0.479)]
    assert indistinguishable(search.trials, trials) == trials[:2]


def test_trials_of_the_same_users_are_told_apart_by_their_differences(search):
    values, rng = drawn(search, 1, by_rate)[0].values, np.random.default_rng(0)
    users = rng.normal(0.5, 0.3, 400)
    each = {"a": users, "b": users - 0.01 + rng.normal(0, 0.02, 400), "c": users - 0.01 + rng.normal(0, 0.3, 400)}
    # Within the error of one value, .015, are all; of the differences, .001 and .015, only the first tells.
    trials = [Trial(name, values, "finished", measured(float(of.mean()), 0.015)) for name, of in each.items()]
    assert trials[0].measured.value - trials[1].measured.value > 0.005
    for name, of in each.items():
        search.trials.write_each(name, of)
    assert indistinguishable(search.trials, trials) == [trials[0], trials[2]]
    assert indistinguishable(search.trials, [replace(trial, name=f"{trial.name}2") for trial in trials])[1].name == "b2"


@pytest.mark.parametrize("where", ["local", "object store"])
def test_trials_are_read_as_they_were_written_best_first(tmp_path, where, request):
    values = {"retriever.user_tower.hidden": [256, 128], "off_policy.alpha": 0.1}
    trials = [
        Trial("b", values, "finished", measured(0.2), (0.1, 0.2), 1.5),
        Trial("c", values, "finished", measured(0.1)),
        Trial("a", values, "failed", error="why"),
        Trial("d", values),
    ]
    kept = Trials.of(tmp_path)
    if where == "object store":
        kept = Trials(Home(request.getfixturevalue("remote_home")), "runs/one")
    for trial in reversed(trials):
        kept.write(trial)
    assert kept.all() == trials and kept.read("e") is None
