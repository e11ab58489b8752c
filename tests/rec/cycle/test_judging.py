"""What champion and challenger are like on the held-out requests."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.config import TrainConfig
from rec.cycle.judging import TURNS, calibration_errors, latency_ms

CONFIG = TrainConfig.model_validate({"ranker": {"tasks": [{"name": "watched", "actions": ["watched"]}]}})


class AlwaysHalf:
    """A ranking model that gives every row a chance of one half."""

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.full(len(matrix), 0.5)


def recommender(*unknown: str) -> Any:
    """One that knows all users and items but these."""

    def positions(names: list[str]) -> NDArray[np.int64]:
        return np.array([-1 if name in unknown else 0 for name in names])

    features = SimpleNamespace(matrix=lambda states, items, scores: np.zeros((len(items), 1), np.float32))
    return SimpleNamespace(
        config=CONFIG,
        ranker=SimpleNamespace(model=AlwaysHalf(), features=features),
        snapshot=SimpleNamespace(item_positions=positions, user_positions=positions),
        source=SimpleNamespace(scores=lambda states, items: np.zeros(items.shape)),
        hydrate=lambda users: users,
    )


def rounds(*shown: tuple[str, str, str | None]) -> Any:
    """User, item and action of each impression."""
    user_id, item_id, action = (np.array(column, dtype=object) for column in zip(*shown, strict=True))
    return SimpleNamespace(user_id=user_id, item_id=item_id, action=action)


def calibration_error(shown: Any) -> float | None:
    return calibration_errors([recommender("new")], shown)[0]


def test_silence_is_that_the_task_did_not_happen() -> None:
    # Half of what was shown was watched; of what was answered, all.
    assert calibration_error(rounds(("u", "i", "watched"), ("u", "i", None))) == 0
    assert calibration_error(rounds(("u", "i", "watched"), ("u", "i", "skipped"))) == 0
    assert calibration_error(rounds(("u", "i", "watched"), ("u", "i", "watched"))) == 0.5


def test_what_a_bundle_does_not_know_says_nothing_of_its_probabilities() -> None:
    known = ("u", "i", "watched")
    assert calibration_error(rounds(known, ("u", "new", None), ("new", "i", None))) == 0.5
    assert calibration_error(rounds(("new", "i", "watched"))) is None


def test_two_bundles_are_held_against_each_other_on_what_both_know() -> None:
    # Each alone knows three, of which two were watched, and would be off by 1/6; what both know was always watched.
    shown = rounds(("u", "i", "watched"), ("u", "i", "watched"), ("u", "new", None), ("late", "i", None))
    assert calibration_errors([recommender("new"), recommender("late")], shown) == [0.5, 0.5]
    assert calibration_errors([recommender("u"), recommender("late")], shown) == [None, None]


def test_latency_is_the_least_of_some_times_and_each_is_first_by_turns() -> None:
    asked: list[str] = []

    def answering(name: str, seconds: float) -> Any:
        def recommend(user_id: str, k: int) -> None:
            # What comes between is slow for one answer of each user.
            slow = asked.count(f"{name} {user_id}") == 0
            asked.append(f"{name} {user_id}")
            time.sleep(0.05 if slow else seconds)

        return SimpleNamespace(recommend=recommend)

    log: Any = SimpleNamespace(user_id=np.array(["a", "b", "a"]), slate=np.zeros((3, 2)))
    one, other = latency_ms((answering("one", 0.002), answering("other", 0.01)), log)
    assert 2 <= one < 50 and 10 <= other < 50
    assert len(asked) == 2 * 2 * TURNS
    assert {asked[place].split()[0] for place in range(0, len(asked), 2)} == {"one", "other"}
