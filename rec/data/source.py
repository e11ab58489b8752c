"""Every kind of data Tandem reads, by the name it has on the command line."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from rec.config import DataConfig
from rec.data.dataset import Dataset
from rec.data.logged import read_logged
from rec.data.movielens import read_movielens_1m, read_movielens_100k
from rec.data.recbole import read_recbole
from rec.data.tabular import read_csv, read_parquet
from rec.errors import ConfigError

# Those of a user's own tables, whose times are in the unit that the config says.
_OF_A_UNIT: Final = ("csv", "parquet")
_YEAR_2000_MS: Final = 946_684_800_000
READERS: Final[Mapping[str, Callable[[DataConfig], Dataset]]] = {
    "movielens-1m": lambda config: read_movielens_1m(config.path or ""),
    "movielens-100k": lambda config: read_movielens_100k(config.path or ""),
    "recbole": lambda config: read_recbole(config.path or ""),
    "parquet": read_parquet,
    "csv": read_csv,
    "events": read_logged,
}


def read_dataset(config: DataConfig) -> Dataset:
    """The data set at a path, checked.

    Raises: ConfigError: without a path, or for data that are generated rather than read. DataError: naming file, row
        and column, for data that are not what they have to be.
    """
    if config.name not in READERS:
        raise ConfigError(
            f"{config.name} data are generated; those that are read are {', '.join(READERS)}", field="data.name"
        )
    if not config.path:
        raise ConfigError(f"{config.name} data are read from a path; give it with --path", field="data.path")
    return READERS[config.name](config)


def summary(dataset: Dataset) -> dict[str, Any]:
    """What is in a data set, as `tandem data validate` prints it."""
    log = dataset.interactions
    first, last = (
        datetime.fromtimestamp(int(time) / 1000, tz=UTC).isoformat()
        for time in (log.timestamp.min(), log.timestamp.max())
    )
    answer: dict[str, Any] = {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "n_rows": len(log),
        "n_users": log.n_users,
        "n_items": log.n_items,
        "first": first,
        "last": last,
        "features": {feature.name: f"{feature.side}, {feature.kind}" for feature in dataset.schema.features},
        "dropped": dataset.dropped,
    }
    if log.rating is not None:
        answer["mean_rating"] = round(float(log.rating.mean(dtype=np.float64)), 4)
    if log.action is not None:
        counts = np.bincount(log.action, minlength=len(log.actions)).tolist()
        answer["actions"] = dict(zip(log.actions, counts, strict=True))
    return answer


def doubts(dataset: Dataset, config: DataConfig) -> list[str]:
    """What of a data set can be right, and is likelier a config that does not fit it.

    Args: config: that the data were read by.
    """
    log, found = dataset.interactions, []
    if log.action is not None:
        counts = np.bincount(log.action, minlength=len(log.actions))
        there = [action for action, count in zip(log.actions, counts, strict=True) if count]
        if not set(there) & set(config.positive_actions):
            found.append(
                f"nothing is liked: the actions are {', '.join(there)}, and positive_actions "
                f"{', '.join(config.positive_actions) or 'none'}; name those that mean that something was liked"
            )
    early = log.timestamp < _YEAR_2000_MS
    if config.name in _OF_A_UNIT and early.any():
        unit = {"s": "seconds", "ms": "milliseconds"}[config.timestamp_unit]
        found.append(
            f"{early.sum():,} of {len(log):,} times are before the year 2000; numbers were read as {unit} since 1970: "
            f"is timestamp_unit {config.timestamp_unit} right?"
        )
    return found
