"""Encoders of a later time: the vocabularies of earlier ones, with what has come since and without what has gone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rec.data.dataset import Dataset, Interactions
from rec.features.columns import ID_COLUMN, normalise
from rec.features.encoders import SIDES, Encoders, longest_run, n_grams


@dataclass(frozen=True, slots=True)
class Growth:
    """How many ids of a vocabulary were kept, came and went."""

    kept: int
    new: int
    expired: int


def grown(before: Encoders, dataset: Dataset, train: Interactions, *, expire_before_ms: int | None = None) -> Encoders:
    """The encoders of a later training period, under which a model fitted with the earlier ones can go on.

    Ids keep their order; new ones follow. One without an event since `expire_before_ms` is left out. Values of features
    are only added, and numbers stay standardised by the earlier moments, on which the weights rest. So without anything
    new, and nothing expired, these are the earlier encoders.

    Args: before: the earlier encoders. dataset: of the schema of `before`. train: the training period's interactions.
    """
    vocabularies: dict[str, Sequence[str]] = dict(before.vocabularies)
    widths = dict(before.widths)
    for side in SIDES:
        events, ids, table = (
            (train.user, train.user_ids, dataset.users)
            if side == "user"
            else (train.item, train.item_ids, dataset.items)
        )
        last_ms = np.full(len(ids), np.iinfo(np.int64).min)
        np.maximum.at(last_ms, events, train.timestamp)
        active = np.flatnonzero(np.bincount(events, minlength=len(ids)))
        if expire_before_ms is not None:
            active = active[last_ms[active] >= expire_before_ms]
        known = before.vocabularies[ID_COLUMN[side]]
        if expire_before_ms is not None:
            living = set(ids[active])
            known = [name for name in known if name in living]
        vocabularies[ID_COLUMN[side]] = _with(known, ids[active])
        frame = normalise(before.schema, side, table).iloc[active]
        for feature in before.schema.of_side(side):
            name, column = feature.name, frame[feature.name]
            match feature.kind:
                case "categorical":
                    vocabularies[name] = _with(before.vocabularies[name], sorted(set(column.dropna())))
                case "multi_hot":
                    found = sorted({value for values in column for value in values})
                    vocabularies[name] = _with(before.vocabularies[name], found)
                    widths[name] = max(widths[name], longest_run(column, before.config.max_values))
                case "text":
                    widths[name] = max(widths[name], longest_run(map(n_grams, column), before.config.max_values))
                case "numeric" | "vector":
                    pass
    return replace(before, vocabularies=vocabularies, widths=widths)


def growth(before: Encoders, after: Encoders) -> dict[str, Growth]:
    """How the vocabularies of ids changed, by name of the id."""
    changes = {}
    for name in ID_COLUMN.values():
        old, new = set(before.vocabularies[name]), set(after.vocabularies[name])
        changes[name] = Growth(len(old & new), len(new - old), len(old - new))
    return changes


def _with(known: Sequence[str], found: Iterable[str]) -> list[str]:
    """The known values, then those of the others in the order given."""
    old = set(known)
    return [*known, *(str(value) for value in found if value not in old)]
