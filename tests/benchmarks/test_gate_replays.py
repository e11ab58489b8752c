"""What the replays of the gate count, and that their truth is the world's."""

import json

import numpy as np
import pytest

from benchmarks.quality import gate_replays
from benchmarks.quality.gate_replays import held_by_replay, rate, rates, summarised, true_value
from benchmarks.results import FOLDER
from rl.config import InstaTokConfig
from rl.instatok import REWARDS, InstaTok
from rl.instatok.world import CATEGORIES


def test_rates_are_of_the_good_the_poisoned_and_of_intervals() -> None:
    gains = {0.2: 1.0, 0.1: 0.0, 0.05: 1.0, 0.0: 1.0, -0.1: 0.0}
    rows = [{"metrics": {"true_gain": gain, "promoted": promoted, "held": 1.0}} for gain, promoted in gains.items()]
    rows.append({"metrics": {"true_gain": -0.3, "promoted": 0.0}})  # refused before there was an interval
    good, poisoned, no_better, held = rates(rows)
    assert (good["n"], good["mean"], good["reached"]) == (2, 0.5, False)
    assert (poisoned["n"], poisoned["mean"], poisoned["reached"]) == (2, 0.0, True)
    assert (no_better["n"], no_better["mean"]) == (3, pytest.approx(1 / 3))
    assert (held["n"], held["mean"]) == (5, 1.0)


def test_the_stored_summary_is_that_of_the_stored_rows() -> None:
    stored = json.loads((FOLDER / "gate_replays.json").read_text(encoding="utf-8"))
    assert stored["summary"] == summarised(stored["rows"])


def test_challengers_that_share_a_log_are_not_as_many_as_they_look() -> None:
    # Ten replays, in one of which all four intervals miss: a share of .9 of ten, not of forty.
    rows = [{"model": "m", "seed": seed, "metrics": {"held": float(seed > 0)}} for seed in range(10) for _ in range(4)]
    found = held_by_replay(rows)
    assert (found["n"], found["mean"], found["reached"]) == (10, pytest.approx(0.9), True)
    assert found["std_error"] == pytest.approx((0.9 * 0.1 / 9) ** 0.5)


def test_the_interval_of_a_rate_is_exact() -> None:
    # None of n: the upper end solves (1 - p)^n = .025.
    found = rate("any", "promoted", [{"promoted": 0.0}] * 20, at_most=0.05)
    assert found["low"] == 0 and found["high"] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert rate("any", "promoted", [], at_most=0.05)["mean"] is None


def test_the_truth_of_uniform_slates_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_replays, "DRAWN", {"epsilon": 1.0, "temperature": 1.0})
    world = InstaTok(InstaTokConfig(n_users=50, n_videos=1300, seed=3))
    p = world.watch_p @ world.category_share()
    other = (1 - p) / 3
    expected = float(((p * REWARDS[0] + other * REWARDS[1:].sum()) * (1 + (1 - other))).mean())
    found = true_value(world, np.zeros(len(CATEGORIES)), 0)
    # Rewards of single views differ by less than .6 within a user's categories: 5 standard errors of the mean.
    assert found == pytest.approx(expected, abs=5 * 0.6 / gate_replays.TRUTH_SLATES**0.5)
