"""The first stage: what is known about a user at the moment of asking, and about an item."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from rec.recommender import Recommender
from rec.state import UserStates
from serve.sessions import Session

# Offered to pick from.
N_USERS: Final = 20


@final
class HydrateStage:
    """Looks users and items up in the bundle, and lays over it what users did since."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._positive = frozenset(recommender.config.data.positive_actions)

    def __call__(
        self,
        user_ids: Sequence[str],
        exclude: Sequence[Sequence[str]],
        sessions: Sequence[Session],
        features: Sequence[Mapping[str, JsonValue]],
    ) -> UserStates:
        """The states of users; what they have seen, and `exclude` (a list a user), must not be shown to them.

        What they liked in their session, by the actions the bundle counts as that, is part of their history; what they
        did anything with is not shown again. `features` are of those the bundle does not know.

        Raises: DataError: naming the column of a feature that users do not have, or of another kind.
        """
        return self._recommender.hydrate(
            user_ids,
            exclude=[[*items, *session.item_ids] for items, session in zip(exclude, sessions, strict=True)],
            recent=[session.taken(self._positive) for session in sessions],
            features=features,
        )

    def users(self) -> list[str]:
        """Some users the bundle knows."""
        return self._recommender.snapshot.user_ids[:N_USERS].tolist()

    def names(self, items: NDArray[np.int32]) -> list[tuple[str, str | None]]:
        """Id and title of items by their place in the catalogue, (M,)."""
        return [(str(self._recommender.item_ids[item]), self._recommender.titles[item]) for item in items.tolist()]

    def item(self, item_id: str) -> dict[str, Any] | None:
        """The id, title and features of an item, None for one that is not in the catalogue."""
        if self._recommender.position_of(item_id) < 0:
            return None
        known = {name: _plain(value) for name, value in self._recommender.item(item_id).items()}
        return {"item_id": known.pop("item_id"), "title": known.pop("title", None), "features": known}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
