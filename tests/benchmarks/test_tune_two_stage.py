"""The search over capping and alpha of the two-stage loss, on a small made-up world."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"
N_USERS, N_ITEMS = 2040, 40


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    yield
    ours = ("two_stage", "two_stage_movielens", "tune_two_stage", "results")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


@pytest.fixture
def world(_importable) -> Any:
    """Users whose last forty are the test's; each likes what is of the genre of their first feature."""
    from two_stage.logged import World
    from two_stage.models import Ranker
    from two_stage.movielens import MovieLens
    from two_stage.simulation import Simulation

    rng = np.random.default_rng(0)
    codes, genres = rng.integers(0, 3, (N_USERS, 4)), rng.random((N_ITEMS, 18), dtype=np.float32)
    data = MovieLens(
        user_codes=codes,
        year_code=rng.integers(0, 3, N_ITEMS),
        genres=genres,
        user=np.arange(N_USERS),
        item=np.arange(N_USERS) % N_ITEMS,
        liked=np.ones(N_USERS, bool),
        time=np.linspace(0, 1, N_USERS),
    )
    label = genres[:, codes[:, 0]].T + 0.3 * rng.normal(size=(N_USERS, N_ITEMS)) > 1.1
    time = np.full((N_USERS, N_ITEMS), 0.5, np.float32)
    simulation = Simulation(label, label, time, time[:, 0], np.argsort(~label, axis=1).astype(np.int16), 0.5)
    logits = rng.normal(size=label.shape).astype(np.float32)
    return World(data, simulation, logits, Ranker(data).eval())


def searched(world: Any, cache: Path, n_trials: int) -> list[Any]:
    import tune_two_stage as ours

    experiment = ours.Experiment(cache)
    experiment._world = world
    space = ours.Space.of(ours.TuneConfig(spaces=("capping", "alpha")))
    trials = ours.search(experiment, space, n_trials)
    ours.decide(experiment, trials[:1])
    return trials


@pytest.mark.slow
def test_a_search_reads_nothing_of_the_test_and_goes_on_where_it_was_cut_off(world: Any, tmp_path: Path):
    whole = searched(world, tmp_path / "whole", 4)
    relevant = world.simulation.relevant.copy()
    relevant[2000:] = ~relevant[2000:]
    other = replace(world, simulation=replace(world.simulation, relevant=relevant))
    searched(other, tmp_path / "cut", 2)
    file = tmp_path / "cut" / "tune_two_stage.jsonl"
    begun = file.read_text(encoding="utf-8")
    assert searched(other, tmp_path / "cut", 4) == whole
    assert file.read_text(encoding="utf-8").startswith(begun), "no run was done again"
    assert len({str(trial.values) for trial in whole}) == 4 and whole[0].measured.score > whole[-1].measured.score
