"""What benchmarks say of models and of peers."""

import numpy as np
import pytest

from benchmarks.results import compared, paired_row, summary_row


def test_a_model_is_summed_up_over_its_rows_and_its_users():
    rows = [{"model": "a", "metrics": {"m": value}} for value in (0.2, 0.4)] + [{"model": "b", "metrics": {"m": 9.0}}]
    users = [{"m": np.array([0.1, 0.3])}, {"m": np.array([0.3, 0.5])}]
    found = summary_row("a", "m", rows, users=users, goal=0.25)
    # Over seeds: sd .1414 / sqrt(2). Over users: of their means .2 and .4.
    assert found["mean"] == pytest.approx(0.3) and found["std_error"] == pytest.approx(0.1)
    assert found["std_error_users"] == pytest.approx(0.1)
    assert (found["n"], found["goal"], found["reached"], found["published"]) == (2, 0.25, True, None)
    alone = summary_row("b", "m", rows)
    assert alone["std_error"] is None and "std_error_users" not in alone and alone["reached"] is None


def test_models_are_paired_by_user_over_the_seeds_that_both_have():
    a = [{"m": np.array([1.0, 2.0, 3.0])}, {"m": np.array([2.0, 3.0, 4.0])}]
    b = [{"m": np.array([0.5, 1.5, 2.5])}]
    found = paired_row("a", "b", "m", a, b)
    assert (found["a"], found["b"], found["metric"]) == ("a", "b", "m")
    # Seed 0 alone is common; each user gains .5, so that the interval is a point.
    assert found["by_seed"] == [0.5]
    assert found["difference"] == found["low"] == found["high"] == pytest.approx(0.5)


def test_a_peer_that_always_takes_twice_as_long_has_a_ratio_of_two_for_sure():
    ours = [0.1, 0.3, 0.2]
    found = compared(ours, [2 * seconds for seconds in ours], {"name": "peer"})
    for bound in ("ratio", "ratio_low", "ratio_high"):
        assert found[bound] == pytest.approx(2.0)
    assert found["ours"]["median"] == pytest.approx(200.0) and found["peer"]["name"] == "peer"


def test_a_single_turn_has_a_ratio_without_bounds():
    found = compared([0.2], [0.6], {"name": "peer"})
    assert found["ratio"] == pytest.approx(3.0)
    assert found["ratio_low"] is found["ratio_high"] is None
