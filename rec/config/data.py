"""Which data, how they are divided, and how they are encoded."""

from typing import Annotated, Literal

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt

from rec.config.base import Config, Fraction

DataName = Literal["movielens-1m", "movielens-100k", "instatok", "recbole", "parquet", "csv", "events"]


class ColumnsConfig(Config):
    """What the columns of a table of your own are called."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    action: str | None = None


class DataConfig(Config):
    """Which data, and which of its rows count as liked.

    Of `events`, `rewards` says what each action is worth to off-policy learning (by default 1 for positive actions, 0
    for all others); an impression without feedback for `attribution_s` seconds is worth 0. What was logged after
    `now_ms` does not count: `tandem train` records the time at which it began, unless one is given, so that the data of
    a run stay the same as the log grows.
    """

    name: Annotated[DataName, tyro.conf.arg(name="data")] = "instatok"
    path: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    timestamp_unit: Literal["s", "ms"] = "s"
    min_rating: float = 3.0
    positive_actions: tuple[str, ...] = ("watched", "liked")
    rewards: dict[str, Annotated[float, Field(ge=-1e9, le=1e9)]] = Field(default_factory=dict)
    attribution_s: PositiveInt = 86_400
    now_ms: NonNegativeInt | None = None


class SplitConfig(Config):
    """How interactions are divided into training and test.

    `none` trains on everything, for a model that is to serve all that is known; `tandem evaluate` refuses it.
    """

    kind: Literal["global_temporal", "per_user_temporal", "leave_last_out", "none"] = "global_temporal"
    train_fraction: Fraction = 0.8


class EncodersConfig(Config):
    """How many slots values get that the training period does not hold, and how long lists and texts may be."""

    hash_slots: PositiveInt = 32
    text_buckets: PositiveInt = 2**14
    max_values: PositiveInt = 64
