"""Items added, changed and withdrawn in a published bundle, without training."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.bundle import UPDATE_OF, BundleDetails
from rec.data.tabular import read_items
from rec.errors import ConfigError, DataError
from rec.features.as_of import without_events
from rec.features.columns import normalise
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import ItemNeighbors
from rec.ranking.rankers import FeatureRanker
from rec.recommender import Recommender
from rec.registry import Registry
from rec.retrieval.blend import Blend
from rec.retrieval.two_tower import TwoTowerSource
from rec.source_fits import as_retriever, extend_sources
from rec.storage import Home


@final
@dataclass(frozen=True, slots=True)
class CatalogueChange:
    """What is different of a catalogue.

    Attributes:
        items: items to add, and others whose features change; columns item_id, and any of title and the features. What
            is not a column stays as it is, and is missing of items added. An item withdrawn before is there again.
        withdrawn: ids of items that must not be shown any more; those withdrawn before may be among them.
    """

    items: pd.DataFrame
    withdrawn: Sequence[str] = ()


def update_bundle(
    home: str | Path | None,
    *,
    items: pd.DataFrame | str | Path | None = None,
    withdraw: Sequence[str] = (),
    version: str | None = None,
    promote: bool = True,
    now_ms: int | None = None,
) -> dict[str, Any]:
    """Publishes a version of a model that knows another catalogue; the JSON of `tandem models update`.

    Its weights and what it knows of users are those of the version it is made from; items that did not change keep
    their embeddings and features, bit for bit.

    Args: items: to add or change, as in `CatalogueChange`, or a .csv or .parquet file of them. withdraw: ids. version:
        to be updated, the CURRENT one where None. promote: whether the new one is to serve. now_ms: UTC milliseconds.
    Raises: DataError: naming what is wrong with an item. ConfigError: when there is nothing to do, or the rules of the
        bundle do not fit its new catalogue. BundleError: as `Registry.open`, and where another version began to serve
        meanwhile: the new one is published and does not.
    """
    registry = Registry(Home(home))
    serving = registry.current() if promote else None
    bundle = registry.open(serving if version is None else version)
    base = Recommender.from_bundle(bundle)
    if items is None and not withdraw:
        raise ConfigError("there is nothing to do; give items to add or change, or items to withdraw", field="items")
    if isinstance(items, str | Path):
        items = read_items(items, base.snapshot.encoders.schema, id_column=base.config.data.columns.item_id)
    change = CatalogueChange(pd.DataFrame({"item_id": []}) if items is None else items, withdraw)
    updated = with_catalogue(base, change, at_ms=int(time.time() * 1000) if now_ms is None else now_ms)
    updated.answer_once()
    details = bundle.manifest.model_dump(include=set(BundleDetails.model_fields))
    details["tables"] = {**details["tables"], UPDATE_OF: bundle.version}
    new_version = registry.publish(updated.save, BundleDetails(**details))
    if promote:
        registry.promote(new_version, instead_of=serving)
    before, after = base.snapshot, updated.snapshot
    n_added = len(after.item_ids) - len(before.item_ids)
    return {
        "version": new_version,
        "update_of": bundle.version,
        "added": n_added,
        "changed": len(change.items) - n_added,
        "withdrawn": int((after.withdrawn[: len(before.item_ids)] & ~before.withdrawn).sum()),
        "returned": int((~after.withdrawn[: len(before.item_ids)] & before.withdrawn).sum()),
        "n_items": int((~after.withdrawn).sum()),
        "promoted": promote,
        "warnings": _doubts(updated, n_added),
    }


def with_catalogue(recommender: Recommender, change: CatalogueChange, *, at_ms: int) -> Recommender:
    """A recommender with another catalogue; the one given stays as it is.

    New items stand behind all others, so every position keeps its item. Their embeddings are those of their features
    with an unknown id; the counted sources know nothing of them but that they are new.

    Args: at_ms: when they come into the catalogue, UTC milliseconds.
    Raises: DataError: naming what is wrong with an item. ConfigError: when the rules do not fit the new catalogue.
    """
    snapshot, changed = changed_snapshot(recommender.snapshot, change, at_ms=at_ms)
    config = recommender.config
    blended = recommender.source.sources if isinstance(recommender.source, Blend) else ()
    others = {source.name: source for source in blended if not isinstance(source, TwoTowerSource)}
    neighbors = _extended(recommender.neighbors, snapshot)
    updated = replace(
        recommender,
        version="",
        snapshot=snapshot,
        source=as_retriever(
            recommender.two_tower.over(snapshot, changed),
            extend_sources(others, snapshot, config, until_ms=at_ms),
            config,
        ),
        popularity=recommender.popularity.extended(len(snapshot.item_ids)),
        ranker=FeatureRanker.of(RankingFeatures(snapshot, neighbors), recommender.ranker.model, config),
        neighbors=neighbors,
    )
    # Rules name columns and values; that the catalogue still has them is said now, not to who asks first.
    _ = updated.cap, updated.boosts
    return updated


def changed_snapshot(snapshot: Snapshot, change: CatalogueChange, *, at_ms: int) -> tuple[Snapshot, NDArray[np.intp]]:
    """A snapshot with another catalogue, and the positions of what was added or changed.

    Raises: DataError: naming what is wrong with an item.
    """
    given, schema = change.items, snapshot.encoders.schema
    if given.columns.has_duplicates:
        twice = str(given.columns[given.columns.duplicated()][0])
        raise DataError("a column may occur once; remove the other", column=twice)
    known = ["title", *(feature.name for feature in schema.of_side("item"))]
    for name in given.columns:
        if name not in ("item_id", *known):
            raise DataError(f"no feature of the items; there are {', '.join(known)}", column=str(name))
    if "item_id" not in given.columns or given["item_id"].isna().any() or (given["item_id"] == "").any():
        raise DataError("every item needs an id", column="item_id")
    before = snapshot.item_table
    if "title" in given.columns and "title" not in before.columns:
        before = before.assign(title=None)
    plain = normalise(schema, "item", given.reindex(columns=list(before.columns)))
    # What is not of the schema's form is refused by the row it was given in.
    snapshot.encoders.encode("item", plain)
    if plain["item_id"].duplicated().any():
        row = int(plain["item_id"].duplicated().to_numpy().argmax())
        raise DataError(f"item {plain['item_id'][row]!r} is there twice; remove one", row=row, column="item_id")
    position = snapshot.item_positions(plain["item_id"].tolist())
    is_new = position < 0
    withdrawn = np.append(snapshot.withdrawn, np.zeros(is_new.sum(), np.bool_))
    position[is_new] = len(snapshot.item_ids) + np.arange(is_new.sum())
    withdrawn[position] = False
    withdrawn[_to_withdraw(snapshot, change)] = True
    if withdrawn.all():
        raise DataError("at least one item must be left; withdraw fewer", field="withdraw")

    columns = {name: before[name].to_numpy(copy=True) for name in before.columns}
    for name in given.columns:
        columns[name][position[~is_new]] = plain[name].to_numpy()[~is_new]
    columns = {name: np.concatenate([values, plain[name].to_numpy()[is_new]]) for name, values in columns.items()}
    table = pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})
    as_of = {
        name: np.append(values, np.repeat(without_events("item")[name], is_new.sum()))
        for name, values in snapshot.item_as_of.items()
    }
    changed = replace(
        snapshot,
        item_table=normalise(schema, "item", table),
        item_as_of=as_of,
        item_counts=np.append(snapshot.item_counts, np.zeros(is_new.sum(), np.int64)),
        added_ms=np.append(snapshot.added_ms, np.full(is_new.sum(), max(at_ms, snapshot.at_ms + 1), np.int64)),
        withdrawn=withdrawn,
    )
    return changed, position.astype(np.intp)


def _to_withdraw(snapshot: Snapshot, change: CatalogueChange) -> NDArray[np.int32]:
    """Positions of the items to withdraw."""
    positions = snapshot.item_positions(change.withdrawn)
    if (positions < 0).any():
        unknown = [item_id for item_id, position in zip(change.withdrawn, positions, strict=True) if position < 0]
        raise DataError(
            f"{len(unknown)} of {len(positions)} items to withdraw are not in the catalogue, the first {unknown[0]!r}: "
            "correct the ids, or leave them out",
            field="withdraw",
        )
    both = sorted(set(change.withdrawn) & set(change.items["item_id"].astype(str)))
    if both:
        raise DataError(f"item {both[0]!r} is to be withdrawn and to be changed; do one of the two", field="withdraw")
    return positions


def _extended(neighbors: ItemNeighbors, snapshot: Snapshot) -> ItemNeighbors:
    """The same neighbours, with items at the end that have none."""
    added = len(snapshot.item_ids) - len(neighbors.item_ids)
    indptr = np.pad(neighbors.indptr, (0, added), mode="edge")
    return replace(neighbors, item_ids=snapshot.item_ids, indptr=indptr)


def _doubts(updated: Recommender, n_added: int) -> list[str]:
    """What whoever added items should know."""
    if not n_added or updated.config.retriever.item_tower.id_dropout:
        return []
    return [
        "the two-tower model needs an item's id, which it learns in training alone: what was added is found by the "
        "source `fresh` and shown by exploration; train with retriever.item_tower.id_dropout to have it found by its "
        "features"
    ]
