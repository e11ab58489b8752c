"""Everything known at one time: what rankers are trained on, evaluation asks, and a bundle serves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Final, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rec.data.dataset import Dataset, Interactions
from rec.errors import BundleError, DataError
from rec.features.as_of import AS_OF_FEATURES, DAY_MS, EntitySide, EventIndex, as_of_features, without_events
from rec.features.columns import normalise
from rec.features.encoders import Encoders
from rec.state import UserStates


@final
@dataclass(frozen=True)
class Snapshot:
    """Users and items as they were at one time, from the events strictly before it.

    Attributes:
        at_ms: the time, UTC milliseconds.
        encoders: encode the tables.
        user_table, item_table: ids, titles and features in their plain form; row i is position i.
        user_as_of, item_as_of: as-of features as measured, float32, (U,) and (N,) by name.
        item_counts: events of each item, int64, (N,).
        history: last H items of each user, oldest first, padded on the left with -1, int32, (U, H).
        seen_indptr, seen: all items of each user, ascending, (U + 1,) and (nnz,).
        added_ms: when each item came into the catalogue: at_ms, later where the catalogue was updated, and as before
            where training took over a catalogue that had the item, int64, (N,).
        withdrawn: items that must not be shown to anybody any more; histories still hold them, bool, (N,).
    """

    at_ms: int
    encoders: Encoders
    user_table: pd.DataFrame
    item_table: pd.DataFrame
    user_as_of: dict[str, NDArray[np.float32]]
    item_as_of: dict[str, NDArray[np.float32]]
    item_counts: NDArray[np.int64]
    history: NDArray[np.int32]
    seen_indptr: NDArray[np.int64]
    seen: NDArray[np.int32]
    added_ms: NDArray[np.int64]
    withdrawn: NDArray[np.bool_]

    @classmethod
    def build(
        cls, dataset: Dataset, encoders: Encoders, interactions: Interactions, at_ms: int, history_length: int
    ) -> "Snapshot":
        """What was known at at_ms; interactions at or after it are not looked at.

        Args: dataset: gives the tables of users and items. interactions: what counts for history, seen items and
            as-of features, under the data set's vocabularies. history_length: H.
        """
        index = EventIndex(interactions)
        users, items = np.arange(interactions.n_users), np.arange(interactions.n_items)
        seen_indptr, seen = index.seen(users, at_ms)
        return cls(
            at_ms,
            encoders,
            normalise(encoders.schema, "user", dataset.users),
            normalise(encoders.schema, "item", dataset.items),
            as_of_features(index, "user", users, at_ms),
            as_of_features(index, "item", items, at_ms),
            index.item_count(items, at_ms),
            index.history(users, at_ms, history_length),
            seen_indptr,
            seen,
            np.full(len(items), at_ms, np.int64),
            np.zeros(len(items), np.bool_),
        )

    def going_on_from(self, before: "Snapshot") -> "Snapshot":
        """The same, where the items that an earlier catalogue had came in when they came into that one.

        What was withdrawn from it stays withdrawn.
        """
        position = before.item_positions(self.item_ids.tolist())
        there = position >= 0
        return replace(
            self,
            added_ms=np.where(there, before.added_ms[position], self.added_ms),
            withdrawn=there & before.withdrawn[position],
        )

    def in_catalogue_of(self, other: "Snapshot") -> "Snapshot":
        """The same, where another catalogue says what is withdrawn, and since when the items of both are there.

        Unlike the one that training goes on from, it may be of a later time: what it has had for less long is taken
        to have come at at_ms, as all else.
        """
        found = self.going_on_from(other)
        return replace(found, added_ms=np.minimum(found.added_ms, self.at_ms))

    @cached_property
    def user_ids(self) -> NDArray[np.object_]:
        """Ids of the users by position, (U,)."""
        return self.user_table["user_id"].to_numpy(dtype=object)

    @cached_property
    def item_ids(self) -> NDArray[np.object_]:
        """Ids of the items by position, (N,)."""
        return self.item_table["item_id"].to_numpy(dtype=object)

    @property
    def best_known_user(self) -> int:
        """Position of the first of the users with the longest history."""
        return int((self.history >= 0).sum(axis=1).argmax())

    @cached_property
    def users(self) -> dict[str, NDArray]:
        """Encoded features of the users, as-of features among them, (U,) or (U, dim) by name."""
        return self.encoders.encode("user", self.user_table) | self.encoders.standardise(self.user_as_of)

    @cached_property
    def items(self) -> dict[str, NDArray]:
        """Encoded features of the items, as-of features among them, (N,) or (N, dim) by name."""
        return self.encoders.encode("item", self.item_table) | self.encoders.standardise(self.item_as_of)

    @property
    def item_slots(self) -> NDArray[np.int32]:
        """The item_id slot of each catalogue position, (N,)."""
        return self.items["item_id"]

    @property
    def item_age_days(self) -> NDArray[np.float64]:
        """Days since an item's first event, or since it was added where it has none, (N,).

        They are counted until at_ms, or until an item was added after that.
        """
        now_ms = max(self.at_ms, int(self.added_ms.max()))
        since_first = np.expm1(self.item_as_of["item_age_days"].astype(np.float64)) + (now_ms - self.at_ms) / DAY_MS
        return np.where(np.isnan(since_first), (now_ms - self.added_ms) / DAY_MS, since_first)

    def history_slots(self, history: NDArray[np.integer]) -> NDArray[np.int32]:
        """item_id slots of catalogue positions, 0 where it is -1 or the encoders do not know the id; any shape.

        An unknown id says nothing of taste: slots of unknown ids are shared by whatever is new.
        """
        return self._known_slots[history]

    def user_positions(self, user_ids: Sequence[str]) -> NDArray[np.int32]:
        """Positions of users, -1 for one that is unknown, (B,)."""
        return _positions(self._user_lookup, user_ids)

    def item_positions(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """Catalogue positions of items, -1 for one that is unknown, (M,)."""
        return _positions(self._item_lookup, item_ids)

    def user_states(self, users: ArrayLike, excluded: Sequence[ArrayLike] | None = None) -> UserStates:
        """What is known about users; one never seen has missing features and an empty history.

        Args: users: positions, -1 for a user never seen, (B,). excluded: for each user, catalogue positions that must
            not be shown, besides those the user has seen and those withdrawn.
        """
        where = np.asarray(users, dtype=np.int32)
        indptr, seen = _runs(self.seen_indptr, self.seen, where)
        if len(self._withdrawn_items):
            others = [()] * len(where) if excluded is None else excluded
            excluded = [np.append(self._withdrawn_items, np.asarray(other, np.int32)) for other in others]
        if excluded is not None:
            indptr, seen = _with_others(indptr, seen, excluded)
        history = np.full((len(where), self.history.shape[1]), -1, dtype=np.int32)
        history[where >= 0] = self.history[where[where >= 0]]
        return UserStates(
            user=where,
            at_ms=np.full(len(where), self.at_ms, dtype=np.int64),
            history=history,
            features={name: values[where] for name, values in self._users_and_unknown.items()},
            excluded_indptr=indptr,
            excluded=seen,
        )

    def states_at(self, index: EventIndex, users: ArrayLike, at_ms: ArrayLike) -> UserStates:
        """What is known about users at times of their own: as-of features, history and seen items as of then.

        Args: index: the events, of which only those strictly before each time are looked at. users: positions, (B,).
            at_ms: UTC milliseconds, (B,).
        """
        where, when = np.asarray(users, dtype=np.int32), np.asarray(at_ms, dtype=np.int64)
        indptr, seen = index.seen(where, when)
        constant = {name: values[where] for name, values in self.users.items()}
        return UserStates(
            user=where,
            at_ms=when,
            history=index.history(where, when, self.history.shape[1]),
            features=constant | self.encoders.as_of(index, "user", where, when),
            excluded_indptr=indptr,
            excluded=seen,
        )

    def to_frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Users and items as tables with plain columns, to be written as users.parquet and items.parquet.

        Users: user_id, features, as-of features as measured, `history` and `seen` (lists of item ids), `as_of_ms`,
        `history_length`. Items: item_id, title, features, as-of features as measured, `n_events`, `as_of_ms`,
        `added_ms`, `withdrawn`.
        """
        known = self.history >= 0
        starts = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        users = self.user_table.assign(
            **self.user_as_of,
            history=_lists(self.item_ids[self.history[known]], starts),
            seen=_lists(self.item_ids[self.seen], self.seen_indptr),
            as_of_ms=np.int64(self.at_ms),
            history_length=np.int32(self.history.shape[1]),
        )
        items = self.item_table.assign(
            **self.item_as_of,
            n_events=self.item_counts,
            as_of_ms=np.int64(self.at_ms),
            added_ms=self.added_ms,
            withdrawn=self.withdrawn,
        )
        return users, items

    @classmethod
    def from_frames(cls, users: pd.DataFrame, items: pd.DataFrame, encoders: Encoders) -> "Snapshot":
        """The snapshot whose `to_frames` these are, equal in every number.

        Raises: BundleError: for a column that is missing or not what the encoders' schema says, no rows at all, or a
            history that names an item the items table lacks.
        """
        try:
            item_lookup = {item_id: row for row, item_id in enumerate(items["item_id"])}
            at_ms = int(items["as_of_ms"].iloc[0])
            # Bundles from before catalogues could be updated do not have these two.
            items = items.assign(**{"added_ms": at_ms, "withdrawn": False, **items})
            return cls(
                at_ms=at_ms,
                encoders=encoders,
                item_table=normalise(encoders.schema, "item", items),
                item_as_of=_as_of_columns("item", items),
                item_counts=items["n_events"].to_numpy(dtype=np.int64),
                added_ms=items["added_ms"].to_numpy(dtype=np.int64),
                withdrawn=items["withdrawn"].to_numpy(dtype=np.bool_),
                **_user_fields(users, encoders, item_lookup),
            )
        except _NOT_OF_THIS_SCHEMA as error:
            raise BundleError(_OTHER_SCHEMA.format(error)) from error

    def with_users(self, users: pd.DataFrame) -> "Snapshot":
        """The same items at the same time, with the users of a table as `to_frames` makes it.

        Raises: BundleError: as `from_frames`.
        """
        try:
            return replace(self, **_user_fields(users, self.encoders, self._item_lookup))
        except _NOT_OF_THIS_SCHEMA as error:
            raise BundleError(_OTHER_SCHEMA.format(error)) from error

    @cached_property
    def _withdrawn_items(self) -> NDArray[np.int32]:
        return np.flatnonzero(self.withdrawn).astype(np.int32)

    @cached_property
    def _known_slots(self) -> NDArray[np.int32]:
        known = self.item_slots < self.encoders.first_unknown("item_id")
        return np.append(np.where(known, self.item_slots, 0), 0).astype(np.int32)

    @cached_property
    def _user_lookup(self) -> dict[str, int]:
        return {user_id: row for row, user_id in enumerate(self.user_ids)}

    @cached_property
    def _item_lookup(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def _users_and_unknown(self) -> dict[str, NDArray]:
        """Encoded users, and at position -1 a user of whom nothing is known."""
        unknown = self.encoders.standardise(without_events("user"))
        return {
            name: np.concatenate([values, unknown.get(name, np.zeros_like(values, shape=(1, *values.shape[1:])))])
            for name, values in self.users.items()
        }


_NOT_OF_THIS_SCHEMA: Final = (KeyError, IndexError, TypeError, ValueError, DataError)
_OTHER_SCHEMA: Final = "users and items are not tables of this bundle's schema: {}; train again"


def _user_fields(users: pd.DataFrame, encoders: Encoders, item_lookup: dict[str, int]) -> dict[str, Any]:
    """What a snapshot holds of its users, from their table."""
    history_of, history = _flat_positions(users["history"], item_lookup)
    _, seen = _flat_positions(users["seen"], item_lookup)
    lengths = users["history"].map(len).to_numpy(dtype=np.int64)
    padded = np.full((len(users), int(users["history_length"].iloc[0])), -1, dtype=np.int32)
    column = padded.shape[1] - lengths[history_of] + _places(lengths)
    padded[history_of, column] = history
    seen_lengths = users["seen"].map(len).to_numpy(dtype=np.int64)
    return {
        "user_table": normalise(encoders.schema, "user", users),
        "user_as_of": _as_of_columns("user", users),
        "history": padded,
        "seen_indptr": np.concatenate([[0], np.cumsum(seen_lengths)]).astype(np.int64),
        "seen": seen,
    }


def _positions(lookup: dict[str, int], ids: Sequence[str]) -> NDArray[np.int32]:
    return np.array([lookup.get(name, -1) for name in ids], dtype=np.int32)


def _places(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .. within each of runs laid end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _runs(
    indptr: NDArray[np.int64], values: NDArray[np.int32], rows: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The runs of some rows; that of row -1 is empty."""
    start = indptr[np.maximum(rows, 0)]
    lengths = np.where(rows >= 0, indptr[np.maximum(rows, 0) + 1] - start, 0)
    picked = values[np.repeat(start, lengths) + _places(lengths)]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), picked


def _with_others(
    indptr: NDArray[np.int64], values: NDArray[np.int32], others: Sequence[ArrayLike]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Runs with further values, each once and ascending; -1 among the others stands for no item."""
    runs = [
        np.union1d(values[start:end], np.asarray(other, dtype=np.int32))
        for (start, end), other in zip(pairwise(indptr), others, strict=True)
    ]
    runs = [run[run >= 0].astype(np.int32) for run in runs]
    joined = np.concatenate([*runs, np.zeros(0, dtype=np.int32)])
    return np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64), joined


def _lists(values: NDArray[np.object_], indptr: NDArray[np.int64]) -> NDArray[np.object_]:
    """Runs as a column of lists."""
    column = np.empty(len(indptr) - 1, dtype=object)
    for row, (start, end) in enumerate(pairwise(indptr)):
        column[row] = values[start:end].tolist()
    return column


def _flat_positions(column: "pd.Series[Any]", lookup: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Lists of ids laid end to end: the row of each, and its position."""
    rows = np.repeat(np.arange(len(column)), column.map(len).to_numpy(dtype=np.int64))
    positions = map(lookup.__getitem__, chain.from_iterable(column))
    return rows, np.fromiter(positions, dtype=np.int32, count=len(rows))


def _as_of_columns(side: EntitySide, frame: pd.DataFrame) -> dict[str, NDArray[np.float32]]:
    return {
        name: frame[name].to_numpy(dtype=np.float32) for name, feature in AS_OF_FEATURES.items() if feature.side == side
    }
