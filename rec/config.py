"""The configuration of everything in `rec`: typed, frozen, and strict about names.

This module imports neither torch nor Ray, so that the command line starts fast.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from rec.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, lt=1)]
DataName = Literal["movielens-1m", "movielens-100k", "instatok", "recbole", "parquet", "csv"]


class Config(BaseModel):
    """Base of all configs: unknown names are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnsConfig(Config):
    """What the columns of a table of your own are called."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    action: str | None = None


class DataConfig(Config):
    """Which data, and which of its rows count as liked."""

    name: DataName = "instatok"
    path: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    timestamp_unit: Literal["s", "ms"] = "s"
    min_rating: float = 3.0
    positive_actions: tuple[str, ...] = ("watched", "liked")


class SplitConfig(Config):
    """How interactions are divided into training and test."""

    kind: Literal["global_temporal", "per_user_temporal", "leave_last_out"] = "global_temporal"
    train_fraction: Fraction = 0.8


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], path: str | Path) -> ConfigT:
    """A config from a YAML file.

    Raises: ConfigError: naming the file and the field, for a file that is missing, no YAML, or has a wrong field.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such config file; check the path given to --config", file=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {error}", file=str(path)) from error
    return parse_config(kind, values or {}, file=str(path))


def parse_config(kind: type[ConfigT], values: Any, *, file: str | None = None) -> ConfigT:
    """A config from plain values, with errors that name the field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{first['msg']}; found {first.get('input')!r}", file=file, field=field) from error


class TaskConfig(Config):
    """One thing a ranker learns to predict of an interaction.

    `binary`: rating >= min_rating, or an action among `actions` where the log has no ratings.
    `regression`: the rating itself; rows without one teach nothing.
    """

    name: str
    kind: Literal["binary", "regression"] = "binary"
    min_rating: float = 3.0
    actions: tuple[str, ...] = ("watched", "liked")
    weight: PositiveFloat = 1.0


class LambdaMARTConfig(Config):
    """Size and shape of the boosted trees; `patience` counts trees without a better validation NDCG@10."""

    trees: PositiveInt = 300
    patience: PositiveInt = 30
    learning_rate: PositiveFloat = 0.05
    num_leaves: Annotated[int, Field(ge=2)] = 31
    min_data_in_leaf: PositiveInt = 100
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    bagging_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    l2: NonNegativeFloat = 1.0
    truncation_level: PositiveInt = 30
