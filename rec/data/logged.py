"""A service's own log as a data set: what was shown with which probability, and what people did with it.

`path` is a home that holds the tables of `rec.data.events`. users.parquet and items.parquet in its folder `events`, if
there are such, describe users and items, as beside a Parquet log. interactions.parquet there holds what people did
before the service logged: it counts as ever, but in off-policy learning, as nobody knows why it was shown.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rec.config import DataConfig
from rec.data.assembly import dataset_of
from rec.data.dataset import Dataset, Interactions
from rec.data.event_rows import refuse_other_units
from rec.data.events import FOLDER, EventTables
from rec.data.rounds import join_rounds
from rec.data.tabular import read_parquet, read_side_tables
from rec.errors import ConfigError, DataError
from rec.storage import Home

NO_FEEDBACK: Final = "no_feedback"
EARLIER: Final = "interactions.parquet"
SIDE_FILES: Final = ("users.parquet", "items.parquet")


def read_logged(config: DataConfig, *, versions: Mapping[str, int | None] | None = None) -> Dataset:
    """The data set of a log: its rounds, and as interactions the latest feedback on each impression.

    An impression that got none in time is an interaction of action `no_feedback`, at the time when that was clear.
    What people did before the service logged are interactions at no position (-1).
    What was logged after `config.now_ms` does not count, so the data of a time are the same whenever they are read.

    Args: versions: of the tables, as `EventTables.versions` has them; by default those that there are now.
    Raises: DataError: naming table, row and column; also for a log without an impression that is old enough, and for
        earlier interactions that are ratings.
        ConfigError: for a `now_ms` in another unit, and where rewards are not given and no positive action occurs.
    """
    refuse_other_units("data.now_ms", config.now_ms)
    home = Home(config.path)
    now_ms = int(time.time() * 1000) if config.now_ms is None else config.now_ms
    events = EventTables(home)
    versions = events.versions() if versions is None else versions
    requests, impressions, feedback = (
        events.read(table, version=versions[table]) for table in ("requests", "impressions", "feedback")
    )
    rounds = join_rounds(
        requests,
        impressions,
        feedback,
        rewards=rewards_of(feedback, config),
        now_ms=now_ms,
        attribution_s=config.attribution_s,
    )
    if not len(rounds):
        raise DataError(
            f"the log holds no impression older than {config.attribution_s} s, after which silence is an answer",
            file=events.uri("impressions"),
        )
    with _beside_the_tables(home) as folder:
        users, items = read_side_tables(folder, config)
        earlier = _earlier(folder, now_ms)
    assert rounds.action is not None and rounds.answered_at is not None
    ignored = pd.isna(rounds.action)
    ranked = rounds.requests.candidates
    known = np.repeat(rounds.requests.timestamp <= now_ms, np.diff(ranked.indptr))
    shown = pd.unique(np.concatenate([rounds.item_id, ranked.values[known]])).astype(str)
    frame = pd.DataFrame(
        {
            "user_id": rounds.user_id,
            "item_id": rounds.item_id,
            "timestamp": np.where(ignored, rounds.timestamp + config.attribution_s * 1000, rounds.answered_at),
            "action": np.where(ignored, NO_FEEDBACK, rounds.action),
            "position": rounds.position,
        }
    )
    frame = pd.concat([*earlier, frame], ignore_index=True).sort_values("timestamp", kind="stable")
    user_ids = _vocabulary(users.ids, frame["user_id"].unique())
    item_ids = _vocabulary(items.ids, np.concatenate([shown, frame["item_id"].unique()]))
    actions = (*sorted({*frame["action"].unique()} - {NO_FEEDBACK}), NO_FEEDBACK)
    interactions = Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        user=pd.Index(user_ids).get_indexer(pd.Index(frame["user_id"])).astype(np.int32),
        item=pd.Index(item_ids).get_indexer(pd.Index(frame["item_id"])).astype(np.int32),
        timestamp=frame["timestamp"].to_numpy(np.int64),
        action=pd.Index(actions).get_indexer(pd.Index(frame["action"])).astype(np.int16),
        actions=actions,
        position=frame["position"].to_numpy(np.int16),
    )
    dataset = dataset_of("events", interactions, users, items)
    read = {f"{FOLDER}/{table}": version for table, version in versions.items() if version is not None}
    return replace(dataset, dropped=rounds.dropped, rounds=rounds, tables=read)


def rewards_of(feedback: pa.Table, config: DataConfig) -> Mapping[str, float]:
    """The reward of each action: as configured; where nothing is, 1 for positive actions and 0 for all others."""
    if config.rewards:
        return config.rewards
    actions = set(feedback["action"].to_pylist())
    if actions and actions.isdisjoint(config.positive_actions):
        raise ConfigError(
            f"none of {', '.join(config.positive_actions)} occurs in the log, only {', '.join(sorted(actions))}, so "
            "that every reward would be 0: name those that are good, or give `data.rewards`",
            field="data.positive_actions",
        )
    return {name: float(name in config.positive_actions) for name in actions}


def _vocabulary(known: NDArray[np.object_], found: NDArray) -> NDArray[np.object_]:
    """The known ids, then the others of the log, sorted."""
    new = sorted(set(found.tolist()).difference(known.tolist()))
    return np.concatenate([known, np.array(new, dtype=object)])


@contextmanager
def _beside_the_tables(home: Home) -> Iterator[Path]:
    """The folder of what lies beside the tables; of an object store copies, whose errors name what was copied."""
    if home.folder is not None:
        yield home.folder / FOLDER
        return
    with TemporaryDirectory() as folder:
        for name in home.existing([f"{FOLDER}/{file}" for file in (*SIDE_FILES, EARLIER)]):
            home.download(name, Path(folder) / Path(name).name)
        try:
            yield Path(folder)
        except DataError as error:
            if error.file is not None:
                error.file = error.file.replace(folder, home.show(FOLDER))
            raise


def _earlier(folder: Path, now_ms: int) -> list[pd.DataFrame]:
    """What people did before the service logged, by the ids of users and items, where there is a file of it."""
    file = folder / EARLIER
    if not file.exists():
        return []
    done = read_parquet(DataConfig(name="parquet", path=str(file))).interactions
    if done.action is None:
        raise DataError(
            "what people did before the service logged must be actions, as its log has; these are ratings: name the "
            "actions that they stand for, or take the file away",
            file=str(file),
        )
    return [done.before(now_ms + 1).to_frame().assign(position=-1)]
