"""The first stage: what is known about a user at the moment of asking, and about an item."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from rec.recommender import Recommender
from rec.state import UserStates


@final
class HydrateStage:
    """Looks users and items up in the bundle."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def __call__(self, user_ids: Sequence[str], exclude: Sequence[Sequence[str]]) -> UserStates:
        """The states of users; what they have seen, and `exclude` (a list a user), must not be shown to them."""
        return self._recommender.hydrate(user_ids, exclude=exclude)

    def item(self, item_id: str) -> dict[str, Any] | None:
        """The id, title and features of an item, None for one that is not in the catalogue."""
        if self._recommender.position_of(item_id) < 0:
            return None
        known = {name: _plain(value) for name, value in self._recommender.item(item_id).items()}
        return {"item_id": known.pop("item_id"), "title": known.pop("title", None), "features": known}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
