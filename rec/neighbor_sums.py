"""What Swing and the cosine have counted, kept from one training to the next, so that only what is new is added."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rec.config import CosineConfig, SwingConfig, TrainConfig
from rec.data.dataset import Interactions
from rec.i2i import CosineSums, SwingSums
from rec.i2i.pair_log import PairLog
from rec.i2i.pair_sums import PairSums
from rec.i2i.swing import AddUp, add_up_here
from rec.i2i.swing_pairs import unit_bits
from rec.storage import Home

FOLDER: Final = "sums"
SWING: Final = "swing"
COSINE: Final = "cosine"
# The sources that read the cosine of `sources.cosine`.
_OF_COSINE: Final = frozenset({COSINE, "weighted_score"})

Sums = SwingSums | CosineSums
S = TypeVar("S", SwingSums, CosineSums)


@final
@dataclass(frozen=True, slots=True)
class Counted(Generic[S]):
    """Sums, and which interactions they are of.

    Attributes:
        sums: of Swing or the cosine.
        rows: `row_hashes` of the interactions, ascending, uint64, (n,).
        n_added: how many of them the last count added.
    """

    sums: S
    rows: NDArray[np.uint64]
    n_added: int

    def __len__(self) -> int:
        return len(self.rows)


@final
@dataclass(frozen=True, slots=True)
class NeighborSums:
    """The sums that a config's sources need, of what was known at a time.

    Attributes:
        swing: of what was liked.
        cosine: of what was liked, or of all that was done where actions have scores.
    """

    swing: Counted[SwingSums] | None = None
    cosine: Counted[CosineSums] | None = None

    def go_on(
        self, liked: Interactions, log: Interactions, config: TrainConfig, *, add_up: AddUp = add_up_here
    ) -> "NeighborSums":
        """The sums of exactly these interactions, equal to counting them anew.

        Those that are not yet in the sums are added, whenever they happened. Where some of the sums' are gone, as after
        `tandem events forget`, or the config or seed is another, all are counted.

        Args: liked, log: what was liked, and all that was done. add_up: where the work of Swing is done.
        """
        names, sources = set(config.sources.names), config.sources
        swing = cosine = None
        if SWING in names:
            begun = SwingSums.build(_none_of(liked), sources.swing, rng=np.random.default_rng(config.seed))
            kept = self.swing
            if kept is not None and (kept.sums.config, kept.sums.salt) != (begun.config, begun.salt):
                kept = None
            swing = _counted(kept, begun, liked, lambda sums, new: sums.update(new, add_up=add_up))
        if _OF_COSINE & names:
            counts = liked if sources.cosine.scores is None else log
            begun = CosineSums.build(_none_of(counts), sources.cosine)
            kept = self.cosine if self.cosine is not None and self.cosine.sums.config == begun.config else None
            cosine = _counted(kept, begun, counts, CosineSums.update)
        return NeighborSums(swing, cosine)

    @property
    def by_name(self) -> dict[str, Counted[SwingSums] | Counted[CosineSums]]:
        """Those there are."""
        named = {SWING: self.swing, COSINE: self.cosine}
        return {name: counted for name, counted in named.items() if counted is not None}

    def save(self, home: Home, version: str, *, keep: Collection[str] = ()) -> None:
        """Writes HOME/sums/VERSION/NAME-SHA256.safetensors, and removes those of versions that are not to be kept."""
        for name, counted in self.by_name.items():
            content = save(_arrays(counted))
            home.write(f"{FOLDER}/{version}/{name}-{hashlib.sha256(content).hexdigest()}.safetensors", content)
        for other in home.children(FOLDER):
            if other != version and other not in keep:
                home.delete_folder(f"{FOLDER}/{other}")

    @classmethod
    def load(cls, home: Home, version: str) -> Self:
        """What `save` wrote beside a version; without what is not there, or damaged: that is counted anew."""
        found: dict[str, Any] = {}
        for file in home.children(f"{FOLDER}/{version}"):
            name, _, rest = file.partition("-")
            content = home.read(f"{FOLDER}/{version}/{file}") if name in _READ else None
            if content is not None and rest == f"{hashlib.sha256(content).hexdigest()}.safetensors":
                try:
                    found[name] = _READ[name](load(content))
                except (SafetensorError, KeyError, ValueError):
                    continue  # of another release
        return cls(**found)


def row_hashes(log: Interactions) -> NDArray[np.uint64]:
    """A number for each interaction, which follows from user, item, time and action, and of equal ones from their turn.

    64 bits: of 20 million interactions, two are taken for one with a chance of one in 90,000.
    """
    columns = [pd.util.hash_array(log.user_ids.astype(object), categorize=False)[log.user]]
    columns += [pd.util.hash_array(log.item_ids.astype(object), categorize=False)[log.item], log.timestamp]
    if log.action is not None:
        columns.append(pd.util.hash_array(np.array(log.actions, object), categorize=False)[log.action])
    hashes = np.zeros(len(log), np.uint64)
    for column in columns:
        hashes = _mixed(hashes ^ column.astype(np.uint64))
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    first = np.flatnonzero(np.diff(in_order, prepend=in_order[:1] ^ np.uint64(1)))
    nth = np.arange(len(log)) - np.repeat(first, np.diff(np.append(first, len(log))))
    again = nth > 0
    hashes[order[again]] = _mixed(in_order[again] ^ _mixed(nth[again].astype(np.uint64)))
    return hashes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return pd.util.hash_array(values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))


def _none_of(log: Interactions) -> Interactions:
    return log.take(np.zeros(len(log), np.bool_))


def _counted(kept: Counted[S] | None, begun: S, log: Interactions, add: Callable[[S, Interactions], S]) -> Counted[S]:
    """Goes on with sums where all that they are of is among these interactions; else from those of none."""
    rows = row_hashes(log)
    known = np.zeros(len(rows), np.bool_) if kept is None else np.isin(rows, kept.rows)
    there = kept is not None and int(known.sum()) == len(kept) and _holds(log, kept.sums)
    if not there:
        known[:] = False
    sums = add(kept.sums if kept is not None and there else begun, log.take(~known))
    return Counted(sums, np.sort(rows), int((~known).sum()))


def _holds(log: Interactions, sums: Sums) -> bool:
    """Whether the vocabularies have all ids that the sums are of."""
    return set(sums.user_ids) <= set(log.user_ids) and set(sums.item_ids) <= set(log.item_ids)


def _arrays(counted: Counted[SwingSums] | Counted[CosineSums]) -> dict[str, NDArray[Any]]:
    sums = counted.sums
    about = {"config": sums.config.model_dump(), "user_ids": list(sums.user_ids), "item_ids": list(sums.item_ids)}
    arrays = {
        "rows": counted.rows,
        "log_keys": sums.log.keys,
        "log_values": sums.log.values,
        "pair_keys": sums.pairs.keys,
        "pair_sums": sums.pairs.sums,
    }
    if isinstance(sums, SwingSums):
        arrays["kept"] = sums.kept
        about["salt"] = sums.salt
        about["unit_bits"] = unit_bits(sums.config)
    else:
        arrays["norms"] = sums.norms
    text = json.dumps(about, ensure_ascii=False).encode()
    return {**arrays, "about": np.frombuffer(text, np.uint8)}


def _read_swing(arrays: Mapping[str, NDArray[Any]]) -> Counted[SwingSums]:
    about, ids, log, pairs = _parts(arrays)
    config = SwingConfig.model_validate(about["config"])
    if about["unit_bits"] != unit_bits(config):
        raise ValueError("sums in another unit cannot be gone on with")
    return Counted(SwingSums(config, *ids, log, arrays["kept"], pairs, about["salt"], 0), arrays["rows"], 0)


def _read_cosine(arrays: Mapping[str, NDArray[Any]]) -> Counted[CosineSums]:
    about, ids, log, pairs = _parts(arrays)
    config = CosineConfig.model_validate(about["config"])
    return Counted(CosineSums(config, *ids, log, pairs, arrays["norms"], 0), arrays["rows"], 0)


_READ: Final[dict[str, Callable[[Mapping[str, NDArray[Any]]], Counted[Any]]]] = {
    SWING: _read_swing,
    COSINE: _read_cosine,
}


def _parts(
    arrays: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, Any], tuple[NDArray[np.object_], NDArray[np.object_]], PairLog, PairSums]:
    about = json.loads(arrays["about"].tobytes())
    users, items = (np.array(about[name], dtype=object) for name in ("user_ids", "item_ids"))
    return (
        about,
        (users, items),
        PairLog(arrays["log_keys"], arrays["log_values"]),
        PairSums(arrays["pair_keys"], arrays["pair_sums"]),
    )
