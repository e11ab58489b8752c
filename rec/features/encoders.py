"""From the columns of users and items to the numbers models read, fitted on the training period only."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rec.config import EncodersConfig
from rec.data.dataset import Dataset, Interactions
from rec.errors import BundleError, ConfigError, DataError
from rec.features.as_of import AS_OF_FEATURES, EntitySide, EventIndex, as_of_features, without_events
from rec.features.columns import ID_COLUMN, SNAPSHOT_COLUMNS, normalise
from rec.hashing import stable_hash
from rec.schema import FeatureSchema, Kind, Side

SIDES: Final[tuple[EntitySide, ...]] = ("user", "item")

_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a model has to know about an encoded feature.

    Attributes:
        kind: as in the schema; user_id and item_id are categorical, as-of features numeric.
        side: whose feature it is.
        cardinality: number of slots with slot 0, which means padding or missing; 0 for numeric and vector.
        dim: numbers in a row: 1 for categorical and numeric, the longest run for multi_hot and text, D for vector.
        first_unknown: of an id, the first of the slots for what training did not hold, which are the last ones.
        without_events: of an as-of feature, its value where there are no events, standardised.
    """

    kind: Kind
    side: Side
    cardinality: int
    dim: int
    first_unknown: int | None = None
    without_events: float | None = None


@final
@dataclass(frozen=True)
class Encoders:
    """Encoders of every feature of users and items; make them with `fit` or `from_json`.

    Slots: 0 is padding or missing, 1..V the training period's vocabulary, V + 1 .. V + hash_slots what it did not hold.

    Attributes:
        schema: the features.
        config: numbers of slots.
        vocabularies: values in slot order, for user_id, item_id, categorical and multi_hot features.
        widths: longest run of multi_hot and text features, dimension of vector features.
        moments: mean and standard deviation of numeric and as-of features in the training period.
    """

    schema: FeatureSchema
    config: EncodersConfig
    vocabularies: Mapping[str, Sequence[str]]
    widths: Mapping[str, int]
    moments: Mapping[str, tuple[float, float]]

    @classmethod
    def fit(cls, dataset: Dataset, train: Interactions, config: EncodersConfig | None = None) -> "Encoders":
        """Learn from the users, items and times of the training interactions, and from nothing else.

        Args: dataset: gives the feature tables. train: interactions of the training period, under its vocabularies.
        Raises: DataError: without training interactions, or for a column that is missing or of another kind.
            ConfigError: for a feature of the context, or one that is named like a computed column.
        """
        if len(train) == 0:
            raise DataError("encoders need training interactions; found none: widen the training period")
        _check_schema(dataset.schema)
        config = config or EncodersConfig()
        index = EventIndex(train)
        vocabularies: dict[str, Sequence[str]] = {}
        widths: dict[str, int] = {}
        moments: dict[str, tuple[float, float]] = {}
        for side in SIDES:
            events = train.user if side == "user" else train.item
            active = np.unique(events)
            table = dataset.users if side == "user" else dataset.items
            frame = normalise(dataset.schema, side, table).iloc[active]
            vocabularies[ID_COLUMN[side]] = frame[ID_COLUMN[side]].tolist()
            for feature in dataset.schema.of_side(side):
                column = frame[feature.name]
                match feature.kind:
                    case "numeric":
                        moments[feature.name] = _moments(column.to_numpy())
                    case "categorical":
                        vocabularies[feature.name] = sorted(set(column.dropna()))
                    case "multi_hot":
                        vocabularies[feature.name] = sorted({value for values in column for value in values})
                        widths[feature.name] = longest_run(column, config.max_values)
                    case "text":
                        widths[feature.name] = longest_run(map(n_grams, column), config.max_values)
                    case "vector":
                        widths[feature.name] = max(map(len, column), default=0)
            for name, values in as_of_features(index, side, events, train.timestamp).items():
                moments[name] = _moments(values)
        return cls(dataset.schema, config, vocabularies, widths, moments)

    @cached_property
    def specs(self) -> dict[str, FeatureSpec]:
        """Every encoded feature by name: for each side its id, the schema's features, then the as-of features."""
        specs: dict[str, FeatureSpec] = {}
        for side in SIDES:
            name = ID_COLUMN[side]
            specs[name] = FeatureSpec("categorical", side, self.cardinality(name), 1, self.first_unknown(name))
            for feature in self.schema.of_side(side):
                if feature.kind == "text":
                    cardinality = 1 + self.config.text_buckets
                else:
                    cardinality = self.cardinality(feature.name) if feature.name in self.vocabularies else 0
                dim = self.widths.get(feature.name, 1)
                specs[feature.name] = FeatureSpec(feature.kind, side, cardinality, dim)
            for name, values in self.standardise(without_events(side)).items():
                specs[name] = FeatureSpec("numeric", side, 0, 1, without_events=float(values[0]))
        return specs

    def cardinality(self, name: str) -> int:
        """Number of slots of a feature with a vocabulary, slot 0 and hashed slots included."""
        return self.first_unknown(name) + self.config.hash_slots

    def first_unknown(self, name: str) -> int:
        """The first of the slots for values that training did not hold, of a feature with a vocabulary."""
        return 1 + len(self.vocabularies[name])

    def slots(self, name: str, values: Sequence[str | None] | NDArray[np.object_]) -> NDArray[np.int32]:
        """Slots of values of a feature with a vocabulary, such as `item_id`; None is slot 0. (n,)."""
        lookup = self._lookups[name]
        first_hashed = 1 + len(lookup)

        def slot(value: str | None) -> int:
            if value is None:
                return 0
            known = lookup.get(value)
            return first_hashed + stable_hash(f"{name}\0{value}") % self.config.hash_slots if known is None else known

        return np.fromiter(map(slot, values), dtype=np.int32, count=len(values))

    def knows(self, name: str, values: Sequence[str] | NDArray[np.object_]) -> NDArray[np.bool_]:
        """Whether values are in the vocabulary of a feature, such as `item_id`, (n,)."""
        lookup = self._lookups[name]
        return np.fromiter((value in lookup for value in values), dtype=np.bool_, count=len(values))

    def encode(self, side: EntitySide, frame: pd.DataFrame) -> dict[str, NDArray]:
        """The id and the schema's features of one side; as-of features come from `as_of`.

        Returns: by name: categorical (n,) int32; multi_hot and text (n, dim) int32, distinct slots padded with 0 on
            the right, longer runs cut; numeric (n,) float32, standardised, missing is 0; vector (n, dim) float32.
        Raises: DataError: naming the column, and the row's number, of what is not of its feature's kind.
        """
        frame = normalise(self.schema, side, frame)
        encoded: dict[str, NDArray] = {ID_COLUMN[side]: self.slots(ID_COLUMN[side], frame[ID_COLUMN[side]].to_numpy())}
        for feature in self.schema.of_side(side):
            name, column = feature.name, frame[feature.name]
            match feature.kind:
                case "numeric":
                    encoded[name] = self._standardise(name, column.to_numpy())
                case "categorical":
                    encoded[name] = self.slots(name, column.to_numpy())
                case "multi_hot":
                    rows, values = _flat(column)
                    encoded[name] = _padded(rows, self.slots(name, values), len(frame), self.widths[name])
                case "text":
                    rows, grams = _flat(map(n_grams, column))
                    buckets = {gram: 1 + stable_hash(gram) % self.config.text_buckets for gram in set(grams)}
                    slots = np.fromiter((buckets[gram] for gram in grams), dtype=np.int32, count=len(grams))
                    encoded[name] = _padded(rows, slots, len(frame), self.widths[name])
                case "vector":
                    encoded[name] = _stacked(name, column, self.widths[name])
        return encoded

    def as_of(
        self, index: EventIndex, side: EntitySide, positions: ArrayLike, at_ms: ArrayLike
    ) -> dict[str, NDArray[np.float32]]:
        """The as-of features of one side, standardised as in training; unknown ages are 0. (B,) by name."""
        return self.standardise(as_of_features(index, side, positions, at_ms))

    def standardise(self, features: Mapping[str, NDArray]) -> dict[str, NDArray[np.float32]]:
        """What `as_of_features` measured, in training standard deviations from the training mean; NaN becomes 0."""
        return {name: self._standardise(name, values) for name, values in features.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything fitted, as plain JSON values; floats keep all their digits."""
        return {
            "schema": self.schema.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "vocabularies": {name: list(values) for name, values in self.vocabularies.items()},
            "widths": dict(self.widths),
            "moments": {name: list(pair) for name, pair in self.moments.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Encoders":
        """The encoders that `to_json` wrote.

        Raises: BundleError: when a part is missing, or as-of features are others than this version computes.
        """
        try:
            encoders = cls(
                FeatureSchema.model_validate(values["schema"]),
                EncodersConfig.model_validate(values["config"]),
                {name: list(vocabulary) for name, vocabulary in values["vocabularies"].items()},
                {name: int(width) for name, width in values["widths"].items()},
                {name: (float(mean), float(std)) for name, (mean, std) in values["moments"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"these are no fitted encoders: {error!r}; train again") from error
        known = encoders.moments.keys() | encoders.vocabularies.keys() | encoders.widths.keys()
        needed = {*AS_OF_FEATURES, *ID_COLUMN.values(), *(feature.name for feature in encoders.schema.features)}
        if missing := sorted(needed - known):
            raise BundleError(f"the encoders lack {', '.join(missing)}, which this version needs; train again")
        return encoders

    @cached_property
    def _lookups(self) -> dict[str, dict[str, int]]:
        return {
            name: {value: slot for slot, value in enumerate(vocabulary, start=1)}
            for name, vocabulary in self.vocabularies.items()
        }

    def _standardise(self, name: str, values: NDArray) -> NDArray[np.float32]:
        mean, std = self.moments[name]
        return np.nan_to_num((values.astype(np.float64) - mean) / std, nan=0.0).astype(np.float32)


def _check_schema(schema: FeatureSchema) -> None:
    for feature in schema.features:
        if feature.side == "context":
            raise ConfigError(
                "interactions carry no context columns yet; make it a user or an item feature", field=feature.name
            )
        if feature.name in (*AS_OF_FEATURES, *SNAPSHOT_COLUMNS):
            raise ConfigError("this is the name of a computed column; rename yours", field=feature.name)


def n_grams(text: str) -> list[str]:
    """Lower-cased words and pairs of neighbouring words."""
    words = _WORD.findall(text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def longest_run(runs: Iterable[Sequence[Any]], limit: int) -> int:
    """Most distinct values of a run, 1 at least and `limit` at most."""
    return min(limit, max((len(set(run)) for run in runs), default=0)) or 1


def _moments(values: NDArray) -> tuple[float, float]:
    """Mean and standard deviation of what is known; (0, 1) of nothing, standard deviation 1 of a constant."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0:
        return 0.0, 1.0
    mean, std = float(known.mean()), float(known.std())
    return mean, std if std > 1e-9 * max(1.0, abs(mean)) else 1.0


def _flat(runs: Iterable[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Runs laid end to end: the row of each value, and the values."""
    rows, values = [], []
    for row, run in enumerate(runs):
        rows.extend([row] * len(run))
        values.extend(run)
    return np.array(rows, dtype=np.int64), np.array(values, dtype=object)


def _padded(rows: NDArray[np.int64], slots: NDArray[np.int32], n_rows: int, width: int) -> NDArray[np.int32]:
    """Distinct slots of each row in order of appearance, cut or padded with 0 to width, (n_rows, width)."""
    _, first = np.unique(rows * (int(slots.max(initial=0)) + 1) + slots, return_index=True)
    first.sort()
    rows, slots = rows[first], slots[first]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    fits = place < width
    padded = np.zeros((n_rows, width), dtype=np.int32)
    padded[rows[fits], place[fits]] = slots[fits]
    return padded


def _stacked(name: str, column: "pd.Series[Any]", dim: int) -> NDArray[np.float32]:
    """Vectors as rows, zeros where one is missing, (n, dim)."""
    stacked = np.zeros((len(column), dim), dtype=np.float32)
    for row, vector in enumerate(column):
        if len(vector) not in (0, dim):
            raise DataError(f"vectors of this feature have {dim} numbers; found {len(vector)}", row=row, column=name)
        if len(vector):
            stacked[row] = vector
    return stacked
