"""The published model that training goes on from."""

from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import Final, Self

import pandas as pd

from rec.config import TrainConfig
from rec.data.dataset import Dataset
from rec.errors import BundleError, ConfigError
from rec.features.snapshot import Snapshot
from rec.recommender import ITEMS_FILE, Recommender
from rec.registry import Registry
from rec.runs import recorded_config
from rec.storage import Home

CURRENT: Final = "CURRENT"
# What weights, and what they read, are of a certain shape by.
_SHAPES: Final = (
    "retriever.output_dim",
    *(
        f"retriever.{tower}.{field}"
        for tower in ("user_tower", "item_tower")
        for field in ("embedding_dim", "branches", "without", "hidden")
    ),
    "retriever.user_tower.history_windows",
    "encoders",
    "ranker.kind",
    "ranker.tasks",
)


@dataclass(frozen=True, slots=True)
class Parent:
    """A published model under the config and data of a run that is to go on from it."""

    recommender: Recommender

    @classmethod
    def open(cls, home: Home, config: TrainConfig, dataset: Dataset) -> Self:
        """The verified model of version `incremental.parent`.

        Raises: BundleError: when it is not there, or damaged. ConfigError: as `require_shapes` and `require_features`.
        """
        bundle = Registry(home).open(config.incremental.parent)
        parent = cls(Recommender.from_bundle(bundle))
        parent.require_shapes(config)
        parent.require_features(dataset)
        return parent

    @property
    def end_ms(self) -> int:
        """Where its training ended, UTC milliseconds."""
        return self.recommender.snapshot.at_ms

    def require_shapes(self, config: TrainConfig) -> None:
        """Refuses a config under which the weights would not fit, or not mean the same.

        Raises: ConfigError: naming the field and both values.
        """
        for field in _SHAPES:
            found, expected = attrgetter(field)(config), attrgetter(field)(self.recommender.config)
            if found != expected:
                raise ConfigError(
                    f"must be as in {self.recommender.version}, from which training goes on: {expected!r}; found "
                    f"{found!r}: give its config, or train without --from",
                    field=field,
                )

    def require_features(self, dataset: Dataset) -> None:
        """Refuses data of other features.

        Raises: ConfigError: naming the first feature that differs, as it is in both.
        """
        known, given = self.recommender.snapshot.encoders.schema.features, dataset.schema.features
        for expected, found in zip_longest(known, given):
            if found != expected:
                name = (expected or found).name
                raise ConfigError(
                    f"the data must have the features of {self.recommender.version}, from which training goes on: "
                    f"expected {expected!r}, found {found!r}; give them these, or train without --from",
                    field=name,
                )


def with_version(config: TrainConfig, home: Home, resume: str | None) -> TrainConfig:
    """The config with the version that its `incremental` names as CURRENT; of a resumed run the one it began with.

    So a run is of the same parent, or catalogue, whatever is promoted meanwhile.

    Raises: BundleError: when CURRENT is named, and nothing was promoted yet.
    """
    named = [field for field in ("parent", "catalogue") if getattr(config.incremental, field) == CURRENT]
    if not named:
        return config
    if resume is not None:
        begun = recorded_config(home, resume).incremental
        versions = {field: getattr(begun, field) for field in named}
    else:
        versions = dict.fromkeys(named, Registry(home).open().version)
    return config.model_copy(update={"incremental": config.incremental.model_copy(update=versions)})


def came_back(home: Home, snapshot: Snapshot, *, version: str | None = None) -> list[str]:
    """A warning where a model has items that are withdrawn from the one that serves, and not from it.

    Args: version: of the model, where it was published.
    """
    try:
        bundle = Registry(home).open()
    except BundleError:
        return []
    items = pd.read_parquet(bundle.path(ITEMS_FILE))
    withdrawn = set(items.loc[items["withdrawn"], "item_id"]) if "withdrawn" in items else set()
    back = sorted(withdrawn.intersection(snapshot.item_ids[~snapshot.withdrawn]))
    if not back:
        return []
    which, how = ("this model", "") if version is None else (version, f"--version {version} --no-promote ")
    return [
        f"{len(back)} items that are withdrawn in CURRENT, {bundle.version}, are not in {which}: withdraw them "
        f"again (tandem models update {how}--withdraw {_first(back)})"
    ]


def not_there(parent: Recommender, dataset: Dataset) -> list[str]:
    """A warning where items of the model whose catalogue is taken over, which may be shown, are not in the data."""
    snapshot = parent.snapshot
    gone = sorted(set(snapshot.item_ids[~snapshot.withdrawn]).difference(dataset.items["item_id"]))
    if not gone:
        return []
    return [
        f"{len(gone)} items of {parent.version} are not in the data, and so not in this model: {_first(gone)}; items "
        "added by tandem models update have to be in the table of items, too"
    ]


def _first(ids: list[str]) -> str:
    return " ".join(ids[:10]) + (" ..." if len(ids) > 10 else "")
