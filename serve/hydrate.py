"""The first stage: what is known about a user at the moment of asking, and about an item."""

from collections.abc import Sequence
from typing import Any, final

from rec.errors import DataError
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
        """What is known about an item, None for one that is not in the catalogue."""
        try:
            return self._recommender.item(item_id)
        except DataError:
            return None
