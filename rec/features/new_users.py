"""States of users whom a snapshot does not hold, from what they say of themselves and what they just took."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from rec.data.dataset import Interactions
from rec.errors import DataError
from rec.features.as_of import EventIndex, as_of_features
from rec.features.columns import normalise
from rec.features.snapshot import Snapshot
from rec.state import UserStates


def new_user_states(snapshot: Snapshot, users: pd.DataFrame, histories: Sequence[Sequence[str]]) -> UserStates:
    """What is known about users who are not in the users table: features, and the items of a history, taken just now.

    One of whom neither is given is a user never seen. Ids of items that are not in the catalogue are left out.

    Args: users: columns user_id, and any of the features. histories: item ids of each user, oldest first, (B,).
    Raises: DataError: naming the column, and the row's number, of what is no feature, or not of its feature's kind.
    """
    schema = snapshot.encoders.schema
    names = [feature.name for feature in schema.of_side("user")]
    for name in users.columns:
        if name not in ("user_id", *names):
            raise DataError(f"no feature of the users; there are {', '.join(names) or 'none'}", column=str(name))
    described = users.reindex(columns=["user_id", *names])
    told = described[names].notna().any(axis=1).to_numpy()
    taken = [items[items >= 0] for items in map(snapshot.item_positions, histories)]
    lengths = np.array([len(items) for items in taken], np.int64)
    rows = np.arange(len(users))
    events = Interactions(
        user_ids=described["user_id"].to_numpy(dtype=object),
        item_ids=snapshot.item_ids,
        user=np.repeat(rows, lengths).astype(np.int32),
        item=np.concatenate([*taken, np.zeros(0, np.int32)]),
        timestamp=np.full(lengths.sum(), snapshot.at_ms - 1, np.int64),
    )
    length = snapshot.history.shape[1]
    table = normalise(schema, "user", described).assign(
        **as_of_features(EventIndex(events), "user", rows, snapshot.at_ms),
        history=[snapshot.item_ids[items[-length:]].tolist() for items in taken],
        seen=[snapshot.item_ids[np.unique(items)].tolist() for items in taken],
        as_of_ms=snapshot.at_ms,
        history_length=length,
    )
    states = snapshot.with_users(table).user_states(rows)
    # Beyond the table: sources that have a row for each user have none for these.
    place = np.where(told | (lengths > 0), len(snapshot.user_ids), -1)
    return replace(states, user=place.astype(np.int32))
