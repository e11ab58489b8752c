"""What users took after a snapshot was made, laid over what it knows of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rec.data.dataset import Interactions
from rec.features.as_of import EventIndex, as_of_features, joined_as_of, without_events
from rec.features.snapshot import Snapshot
from rec.state import UserStates


def recent_states(
    snapshot: Snapshot, users: NDArray[np.int32], recent: Sequence[Sequence[str]], excluded: Sequence[ArrayLike]
) -> UserStates:
    """As `Snapshot.user_states`, for users who have taken further items: as though these were its latest events.

    They are in the history, count in the as-of features, and must not be shown again. Items that the snapshot has seen
    its user take, or that are not in the catalogue, change nothing; one never seen is still a user without features.

    Args: users: positions, -1 for a user never seen, (B,). recent: item ids of each user, each once, oldest first,
        (B,). excluded: for each user, catalogue positions that must not be shown.
    """
    taken = [_unseen(snapshot, user, items) for user, items in zip(users.tolist(), recent, strict=True)]
    states = snapshot.user_states(users, [np.append(*pair) for pair in zip(excluded, taken, strict=True)])
    lengths = [len(items) for items in taken]
    if not any(lengths):
        return states
    rows = np.arange(len(users), dtype=np.int32)
    events = Interactions(
        user_ids=rows.astype(object),
        item_ids=snapshot.item_ids,
        user=np.repeat(rows, lengths),
        item=np.concatenate(taken),
        timestamp=np.full(sum(lengths), snapshot.at_ms - 1, np.int64),
    )
    nobody = without_events("user")
    before = {name: np.where(users < 0, nobody[name], values[users]) for name, values in snapshot.user_as_of.items()}
    as_of = joined_as_of(before, as_of_features(EventIndex(events), "user", rows, snapshot.at_ms))
    history = np.stack([np.append(*pair)[len(pair[1]) :] for pair in zip(states.history, taken, strict=True)])
    return replace(states, history=history, features=states.features | snapshot.encoders.standardise(as_of))


def _unseen(snapshot: Snapshot, user: int, item_ids: Sequence[str]) -> NDArray[np.int32]:
    """Catalogue positions of the items that the snapshot does not have its user take."""
    items = snapshot.item_positions(item_ids)
    seen = snapshot.seen[snapshot.seen_indptr[user] : snapshot.seen_indptr[user + 1]] if user >= 0 else ()
    return items[(items >= 0) & ~np.isin(items, seen)]
