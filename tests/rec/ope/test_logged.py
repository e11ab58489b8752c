"""What rows for the estimators cannot be."""

from typing import Any

import numpy as np
import pytest

from rec.errors import DataError, TandemError
from rec.ope import LoggedActions, LoggedSlates, evaluate, evaluate_slates

HALF = np.full(6, 0.5)
SLATES = np.full((6, 2), 0.5)


def actions(**given: Any) -> LoggedActions:
    return LoggedActions(**{"rewards": np.arange(6.0), "propensities": HALF, "target_p": HALF, **given})


def slates(**given: Any) -> LoggedSlates:
    return LoggedSlates(**{"rewards": np.ones((6, 2)), "propensities": SLATES, "target_p": SLATES, **given})


@pytest.mark.parametrize("logged", [actions, slates])
@pytest.mark.parametrize("support", [7.0, -0.1, float("nan"), "1"])
def test_support_is_a_share(logged: Any, support: float) -> None:
    assert logged(support=1.0).support == 1.0
    with pytest.raises(DataError, match="from 0 to 1") as refused:
        logged(support=support)
    assert refused.value.column == "support"


@pytest.mark.parametrize("logged", [actions, slates])
@pytest.mark.parametrize(
    "users",
    [np.array([0, 1, 2, np.nan, 4, np.nan]), np.array(["a", "b", "c", None, "e", None], dtype=object)],
)
def test_a_row_without_its_user_is_named(logged: Any, users: np.ndarray) -> None:
    with pytest.raises(DataError, match="2 of 6 have none") as refused:
        logged(clusters=users)
    assert (refused.value.row, refused.value.column) == (3, "clusters")


@pytest.mark.parametrize("logged", [actions, slates])
@pytest.mark.parametrize("column", ["rewards", "propensities", "q_logged"])
@pytest.mark.parametrize(
    "values",
    [
        np.full(6, 0.5 + 2j),
        ["0.5"] * 6,
        [0.5, "often"],
        [[0.5], [0.5, 0.5]],
        0.5,
        [None] * 6,
        np.array(["0.5"] * 6, object),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(logged: Any, column: str, values: Any) -> None:
    with pytest.raises(DataError) as refused:
        logged(**{column: values})
    assert column in (refused.value.column, "rewards")  # other columns have the shape that the rewards have


@pytest.mark.parametrize("logged", [actions, slates])
def test_users_that_cannot_be_told_apart_are_refused(logged: Any) -> None:
    assert logged(clusters=np.array([1, 2.5, 1, 3, 3, 2], dtype=object)).codes()[1] == 4
    with pytest.raises(DataError, match="of one type") as refused:
        logged(clusters=np.array(["a", 1, "b", 2, "c", 3], dtype=object))
    assert refused.value.column == "clusters"


def test_slates_have_a_position() -> None:
    with pytest.raises(DataError, match=r"K from 1; found shape \(6, 0\)"):
        slates(rewards=np.ones((6, 0)), propensities=np.ones((6, 0)), target_p=np.ones((6, 0)))


def test_a_reward_counts_nothing_or_something_at_a_position() -> None:
    assert slates(position_weights=np.array([1.0, 0.0])).gains.tolist() == [[1.0, 0.0]] * 6
    with pytest.raises(DataError, match=r"-0\.5 at position 1") as refused:
        slates(position_weights=np.array([1.0, -0.5]))
    assert refused.value.column == "position_weights"


@pytest.mark.parametrize("column", ["rewards", "q_logged", "q_target"])
def test_numbers_whose_squares_have_none_are_named(column: str) -> None:
    huge = np.where(np.arange(6) == 4, -1e300, 1.0)
    predicted = {"q_logged": np.ones(6), "q_target": np.ones(6)}
    with pytest.raises(DataError, match=r"found -1e\+300: give rewards in another unit") as refused:
        actions(**predicted | {column: huge})
    assert (refused.value.row, refused.value.column) == (4, column)
    table = {name: np.ones((6, 2)) for name in predicted} | {column: np.column_stack([np.ones(6), huge])}
    with pytest.raises(DataError, match=r"found -1e\+300: give rewards in another unit") as refused:
        slates(**table)
    assert (refused.value.row, refused.value.column) == (4, column)


def test_weights_whose_squares_have_no_number_are_named() -> None:
    tiny = np.where(np.arange(6) == 2, 1e-80, 0.5)
    with pytest.raises(DataError, match=r"weight of 5e\+79 beside 1e\+30") as refused:
        actions(propensities=tiny, rewards=np.full(6, 1e30))
    assert (refused.value.row, refused.value.column) == (2, "propensity")
    # Those of a slate multiply, at last beyond every number.
    for p in (1e-80, 1e-200):
        deep = np.where(np.arange(6)[:, None] == 5, p, SLATES)
        with pytest.raises(DataError, match="1 of 6 rows") as refused:
            slates(propensities=deep, target_p=SLATES)
        assert refused.value.row == 5
    marginals = {"marginal_propensities": SLATES, "marginal_target_p": SLATES}
    vast = slates(**marginals | {"marginal_propensities": np.where(np.arange(6)[:, None] == 5, 1e-120, SLATES)})
    with pytest.raises(DataError, match="1 of 6 rows"):
        evaluate_slates(vast, ["position_wise"], rng=np.random.default_rng(0))


@pytest.mark.filterwarnings("ignore::rec.ope.OverlapWarning")
@pytest.mark.parametrize("reward", [1e3, 1e99, 1e154, 1e300, 1.7e308])
def test_however_large_rewards_are_there_is_an_estimate_or_a_reason(reward: float) -> None:
    """Never an infinite interval, and no error of Python's."""
    rng = np.random.default_rng(0)
    given = {"rewards": reward * rng.random(60), "propensities": rng.uniform(0.2, 1, 60), "target_p": np.full(60, 0.5)}
    names = ["dm", "ips", "snips", "dr", "sndr", "clipped_ips", "switch_dr", "dr_os"]
    try:
        found = evaluate(
            LoggedActions(**given, q_logged=np.full(60, 0.5 * reward), q_target=np.full(60, 0.5 * reward)),
            names,
            rng=rng,
        )
    except TandemError:
        assert reward > 1e99
    else:
        assert reward <= 1e99
        for estimate in found.values():
            assert estimate.interval is not None
            assert np.isfinite(
                [estimate.value, estimate.std_error, estimate.interval.low, estimate.interval.high]
            ).all()
