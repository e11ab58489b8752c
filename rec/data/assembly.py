"""Checked tables put together: vocabularies, positions, aligned users and items, and a hash of the content."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.data.columns import RawTable, ids, numbers, timestamps
from rec.data.dataset import Dataset, Interactions
from rec.data.side_tables import SideTable
from rec.errors import DataError
from rec.schema import FeatureSchema


@dataclass(frozen=True, slots=True)
class LogColumns:
    """Where a log keeps what; `id_pattern` is a regular expression that every id has to match."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    action: str | None = None
    timestamp_unit: Literal["s", "ms"] = "s"
    id_pattern: str | None = None


def assemble(
    name: str,
    log: RawTable,
    columns: LogColumns,
    *,
    users: SideTable,
    items: SideTable,
    repeats: bool = True,
    actions: Sequence[str] = (),
) -> Dataset:
    """A data set out of a log and what is known about users and items.

    Vocabularies hold the ids of the users (items) table in its order, then, sorted, those seen only in the log.

    Args: repeats: whether a user may meet an item again at another time. actions: those known beforehand, which
        begin the vocabulary of actions; the others of the log follow, sorted.
    Raises: DataError: naming file, row and column.
    """
    user_ids, user = _positions(log, columns.user, users.ids, columns.id_pattern)
    item_ids, item = _positions(log, columns.item, items.ids, columns.id_pattern)
    rating = None if columns.rating is None else _ratings(log, columns.rating)
    time = timestamps(log, columns.timestamp, unit=columns.timestamp_unit)
    action = None
    if columns.action is not None:
        names, codes = _positions(log, columns.action, np.array(actions, dtype=object), None)
        actions, action = tuple(names), codes.astype(np.int16)
    refuse_duplicates(log, user, item, time if repeats else None, n_items=len(item_ids))
    interactions = Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        user=user,
        item=item,
        timestamp=time,
        rating=rating,
        action=action,
        actions=tuple(actions),
    )
    return dataset_of(name, interactions, users, items)


def _ratings(log: RawTable, name: str) -> NDArray[np.float32]:
    values = numbers(log, name)
    log.refuse(np.abs(values) > np.finfo(np.float32).max, name, "a rating within the range of float32 is required")
    return values.astype(np.float32)


def dataset_of(name: str, interactions: Interactions, users: SideTable, items: SideTable) -> Dataset:
    """A data set out of interactions and the tables whose ids begin their vocabularies."""
    user_frame = _aligned(users, "user_id", interactions.user_ids)
    item_frame = _aligned(items, "item_id", interactions.item_ids)
    shared = sorted({feature.name for feature in users.features} & {feature.name for feature in items.features})
    if shared:
        raise DataError("users and items both have a column of this name; rename one", column=shared[0])
    schema = FeatureSchema(features=(*users.features, *items.features))
    sha256 = content_sha256(interactions, user_frame, item_frame, schema)
    return Dataset(name, interactions, user_frame, item_frame, schema, sha256)


def refuse_duplicates(
    log: RawTable,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    time: NDArray[np.int64] | None,
    *,
    n_items: int,
) -> None:
    """Refuse a row whose user and item (and time, if given) stand in an earlier row already.

    Raises: DataError: naming the later row, and the earlier one in the message.
    """
    pair = user.astype(np.int64) * n_items + item
    in_order = np.sort(pair)  # far cheaper than hashing, and nearly every log ends here
    met_again = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(met_again):
        return
    rows = np.flatnonzero(np.isin(pair, met_again))
    keys = pd.DataFrame({"pair": pair[rows]} if time is None else {"pair": pair[rows], "time": time[rows]})
    again = keys.duplicated().to_numpy()
    if not again.any():
        return
    first = np.flatnonzero(again)[0]
    earlier = int(rows[np.flatnonzero((keys == keys.iloc[first]).all(axis=1).to_numpy())[0]])
    wrong = np.zeros(len(user), dtype=bool)
    wrong[rows[again]] = True
    same = "user and item" if time is None else "user, item and time"
    log.refuse(wrong, None, f"a duplicate: the same {same} as in row {log.row_in_file(earlier)}; remove one of them")


def content_sha256(interactions: Interactions, users: pd.DataFrame, items: pd.DataFrame, schema: FeatureSchema) -> str:
    """Hash of a data set's content and row order: the same from whatever files it was read, and when generated."""
    digest = hashlib.sha256(schema.model_dump_json().encode())
    for vocabulary in (interactions.user_ids, interactions.item_ids, interactions.actions):
        digest.update(json.dumps(list(vocabulary)).encode())
    columns = (interactions.user, interactions.item, interactions.timestamp, interactions.rating, interactions.action)
    for column in columns:
        digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
    for frame in (users, items):
        for name in frame.columns:
            values = frame[name].astype(object).to_list()
            digest.update(json.dumps([name, values], default=lambda array: array.tolist()).encode())
    return digest.hexdigest()


def _positions(
    log: RawTable, column: str, known: NDArray[np.object_], pattern: str | None
) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """The vocabulary that begins with the known ids, and the position in it of each row's id."""
    found, codes = ids(log, column, pattern=pattern)
    new = sorted(set(found).difference(known))
    vocabulary = np.concatenate([known, np.array(new, dtype=object)])
    position = {value: at for at, value in enumerate(vocabulary)}
    return vocabulary, np.array([position[value] for value in found], dtype=np.int32)[codes]


def _aligned(side: SideTable, id_name: str, vocabulary: NDArray[np.object_]) -> pd.DataFrame:
    """The side's columns, one row for each id of a vocabulary that begins with the side's own ids."""
    n_missing = len(vocabulary) - len(side.ids)
    kinds = {feature.name: feature.kind for feature in side.features}
    columns: dict[str, object] = {id_name: pd.Series(vocabulary, dtype=object)}
    for name, values in side.columns.items():
        kind = kinds.get(name)
        if kind == "numeric":
            columns[name] = np.concatenate([np.asarray(values, dtype=np.float64), np.full(n_missing, np.nan)])
            continue
        filled = [*values, *([[] for _ in range(n_missing)] if kind == "multi_hot" else [None] * n_missing)]
        columns[name] = pd.Series(["" if v is None else v for v in filled] if kind == "text" else filled, dtype=object)
    return pd.DataFrame(columns)
