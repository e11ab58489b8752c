"""What champion and challenger are like on the held-out requests."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.config import TrainConfig
from rec.cycle.judging import calibration_error

CONFIG = TrainConfig.model_validate({"ranker": {"tasks": [{"name": "watched", "actions": ["watched"]}]}})


class AlwaysHalf:
    """A ranking model that gives every row a chance of one half."""

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.full(len(matrix), 0.5)


def positions(names: list[str]) -> NDArray[np.int64]:
    return np.array([-1 if name == "new" else 0 for name in names])


def recommender() -> Any:
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


def test_silence_is_that_the_task_did_not_happen() -> None:
    # Half of what was shown was watched; of what was answered, all.
    assert calibration_error(recommender(), rounds(("u", "i", "watched"), ("u", "i", None))) == 0
    assert calibration_error(recommender(), rounds(("u", "i", "watched"), ("u", "i", "skipped"))) == 0
    assert calibration_error(recommender(), rounds(("u", "i", "watched"), ("u", "i", "watched"))) == 0.5


def test_what_a_bundle_does_not_know_says_nothing_of_its_probabilities() -> None:
    known = ("u", "i", "watched")
    assert calibration_error(recommender(), rounds(known, ("u", "new", None), ("new", "i", None))) == 0.5
    assert calibration_error(recommender(), rounds(("new", "i", "watched"))) is None
