"""A service's own log as a data set: what was shown with which probability, and what people did with it.

`path` is a home that holds the tables of `rec.data.events`. users.parquet and items.parquet in its folder `events`, if
there are such, describe users and items, as beside a Parquet log.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rec.config import DataConfig
from rec.data.assembly import dataset_of
from rec.data.dataset import Dataset, Interactions
from rec.data.events import FOLDER, EventTables
from rec.data.rounds import Rounds, join_rounds
from rec.data.side_tables import SideTable
from rec.data.tabular import read_side_tables
from rec.errors import DataError
from rec.storage import Home

NO_FEEDBACK: Final = "no_feedback"


def read_logged(config: DataConfig) -> Dataset:
    """The data set of a log: its rounds, and as interactions the latest feedback on each impression.

    An impression that got none in time is an interaction of action `no_feedback`, at the time when that was clear.

    Raises: DataError: naming table, row and column; also for a log without an impression that is old enough.
    """
    home = Home(config.path)
    events = EventTables(home)
    versions = events.versions()
    requests, impressions, feedback = (
        events.read(table, version=versions[table]) for table in ("requests", "impressions", "feedback")
    )
    rounds = join_rounds(
        requests,
        impressions,
        feedback,
        rewards=rewards_of(feedback, config),
        now_ms=int(time.time() * 1000),
        attribution_s=config.attribution_s,
        young="none",
    )
    if not len(rounds):
        raise DataError(
            f"the log holds no impression older than {config.attribution_s} s, after which silence is an answer",
            file=events.uri("impressions"),
        )
    users, items = _side_tables(home, config)
    taken = _latest_feedback(rounds, feedback)
    ignored = rounds.take(~pd.MultiIndex.from_arrays(_keys(rounds)).isin(pd.MultiIndex.from_arrays(_keys(taken))))
    shown = [str(item) for item in np.unique(np.concatenate([rounds.item_id, rounds.requests.candidates.values]))]
    user_ids = _vocabulary(users.ids, np.unique(rounds.user_id))
    item_ids = _vocabulary(items.ids, np.array(shown, dtype=object))
    actions = (*sorted(set(taken["action"])), NO_FEEDBACK)
    frame = pd.concat(
        [
            taken[["user_id", "item_id", "timestamp", "action"]],
            pd.DataFrame(
                {
                    "user_id": ignored.user_id,
                    "item_id": ignored.item_id,
                    "timestamp": ignored.timestamp + config.attribution_s * 1000,
                    "action": NO_FEEDBACK,
                }
            ),
        ]
    ).sort_values("timestamp", kind="stable")
    interactions = Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        user=pd.Index(user_ids).get_indexer(pd.Index(frame["user_id"])).astype(np.int32),
        item=pd.Index(item_ids).get_indexer(pd.Index(frame["item_id"])).astype(np.int32),
        timestamp=frame["timestamp"].to_numpy(np.int64),
        action=pd.Index(actions).get_indexer(pd.Index(frame["action"])).astype(np.int16),
        actions=actions,
    )
    dataset = dataset_of("events", interactions, users, items)
    read = {f"{FOLDER}/{table}": version for table, version in versions.items() if version is not None}
    return replace(dataset, dropped=rounds.dropped, rounds=rounds, tables=read)


def rewards_of(feedback: pa.Table, config: DataConfig) -> Mapping[str, float]:
    """The reward of each action: as configured; where nothing is, 1 for positive actions and 0 for all others."""
    if config.rewards:
        return config.rewards
    return {name: float(name in config.positive_actions) for name in set(feedback["action"].to_pylist())}


def _latest_feedback(rounds: Rounds, feedback: pa.Table) -> pd.DataFrame:
    """The feedback that decided the reward of each round that got any, with its user, by time."""
    given = feedback.select(["request_id", "item_id", "action", "timestamp", "event_id"]).to_pandas()
    request_id, item_id = _keys(rounds)
    shown = pd.DataFrame(
        {"request_id": request_id, "item_id": item_id, "user_id": rounds.user_id, "asked_at": rounds.timestamp}
    )
    given = given.merge(shown, on=["request_id", "item_id"])
    in_time = given[given["timestamp"] - given["asked_at"] <= rounds.attribution_s * 1000]
    return in_time.sort_values(["timestamp", "event_id"]).drop_duplicates(["request_id", "item_id"], keep="last")


def _keys(rows: Rounds | pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Request and item of each row."""
    if isinstance(rows, pd.DataFrame):
        return rows["request_id"].to_numpy(object), rows["item_id"].to_numpy(object)
    return rows.requests.request_id[rows.request], rows.item_id


def _vocabulary(known: NDArray[np.object_], found: NDArray) -> NDArray[np.object_]:
    """The known ids, then the others of the log, sorted."""
    new = sorted(set(found.tolist()).difference(known.tolist()))
    return np.concatenate([known, np.array(new, dtype=object)])


def _side_tables(home: Home, config: DataConfig) -> tuple[SideTable, SideTable]:
    return (SideTable(), SideTable()) if home.folder is None else read_side_tables(Path(home.folder) / FOLDER, config)
