"""Which features there are: their kind and whose they are."""

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import model_validator

from rec.config import Config

Kind = Literal["categorical", "numeric", "multi_hot", "vector", "text"]
Side = Literal["user", "item", "context"]

MAX_ID_LENGTH: Final = 256
RESERVED: Final = frozenset({"user_id", "item_id", "timestamp", "rating", "action", "history", "seen", "title"})


class Feature(Config):
    """One column of the users, items or context table.

    `categorical`: one value a row, compared as a string. `numeric`: a number, missing is NaN. `multi_hot`: a list of
    values. `vector`: a list of numbers, the same length in every row. `text`: words, hashed into n-grams.
    """

    name: str
    kind: Kind
    side: Side


class FeatureSchema(Config):
    """The features of a data set, in a fixed order."""

    features: tuple[Feature, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "FeatureSchema":
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"feature names must be unique; {', '.join(twice)} occurs more than once")
        reserved = sorted(RESERVED.intersection(names))
        if reserved:
            raise ValueError(f"{', '.join(reserved)} has a meaning of its own; name the feature otherwise")
        return self

    def of_side(self, side: Side) -> Sequence[Feature]:
        """The features of one side, in schema order."""
        return [feature for feature in self.features if feature.side == side]

    @property
    def sha256(self) -> str:
        """Hash of names, kinds, sides and order; a bundle of another schema is refused by it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
