"""Who did what, when; and what is known about users and items."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.schema import FeatureSchema

if TYPE_CHECKING:
    from rec.data.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions as columns; users and items are positions in the vocabularies.

    Attributes:
        user_ids: vocabulary of user ids, strings, (U,).
        item_ids: vocabulary of item ids, strings, (N,).
        user: position in user_ids, int32, (n,).
        item: position in item_ids, int32, (n,).
        timestamp: UTC milliseconds, int64, (n,).
        rating: float32, (n,), or None where the log has actions instead.
        action: position in `actions`, int16, (n,), or None where the log has ratings instead.
        actions: vocabulary of actions.
        position: in the slate in which the item was shown, 0 for the top, int16, (n,), or None where the log does not
            say.
    """

    user_ids: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64]
    rating: NDArray[np.float32] | None = None
    action: NDArray[np.int16] | None = None
    actions: tuple[str, ...] = ()
    position: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        """Size of the user vocabulary, U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Size of the item vocabulary, N."""
        return len(self.item_ids)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> "Interactions":
        """The rows of a mask or of positions, under the same vocabularies."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            timestamp=self.timestamp[rows],
            rating=None if self.rating is None else self.rating[rows],
            action=None if self.action is None else self.action[rows],
            position=None if self.position is None else self.position[rows],
        )

    def before(self, cut_ms: int) -> "Interactions":
        """The rows strictly before a time."""
        return self.take(self.timestamp < cut_ms)

    def between(self, start_ms: int, end_ms: int) -> "Interactions":
        """The rows with start_ms <= timestamp < end_ms."""
        return self.take((self.timestamp >= start_ms) & (self.timestamp < end_ms))

    def positives(self, *, min_rating: float, positive_actions: Sequence[str]) -> "Interactions":
        """The rows that count as liked."""
        return self.take(self.is_positive(min_rating=min_rating, positive_actions=positive_actions))

    def is_positive(self, *, min_rating: float, positive_actions: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each row counts as liked: rating >= min_rating, or an action among positive_actions, (n,).

        A log with neither ratings nor actions is all positive.
        """
        if self.rating is not None:
            return self.rating >= min_rating
        if self.action is not None:
            return np.isin(self.action, [code for code, name in enumerate(self.actions) if name in positive_actions])
        return np.ones(len(self), np.bool_)

    def to_frame(self) -> pd.DataFrame:
        """Columns user_id, item_id, timestamp, and rating or action where there are such."""
        columns: dict[str, object] = {
            "user_id": self.user_ids[self.user],
            "item_id": self.item_ids[self.item],
            "timestamp": self.timestamp,
        }
        if self.rating is not None:
            columns["rating"] = self.rating
        if self.action is not None:
            columns["action"] = np.asarray(self.actions, dtype=object)[self.action]
        return pd.DataFrame(columns)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: as on the command line, such as `movielens-1m`.
        interactions: all interactions.
        users: row i describes interactions.user_ids[i]; column `user_id`, then features.
        items: row i describes interactions.item_ids[i]; column `item_id`, `title` where known, then features.
        schema: the features of users and items.
        sha256: hash of the content and row order, whatever the files it was read from.
        dropped: rows left out while reading, by reason.
        rounds: what was shown with which probability, where the data are a service's own log.
        tables: version of each table that was read, where tables have versions.
    """

    name: str
    interactions: Interactions
    users: pd.DataFrame
    items: pd.DataFrame
    schema: FeatureSchema
    sha256: str
    dropped: dict[str, int] = field(default_factory=dict)
    rounds: "Rounds | None" = None
    tables: dict[str, int] = field(default_factory=dict)
