"""What the towers read in training: users at moments of the past, items at snapshots."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import RetrieverConfig
from rec.data.dataset import Dataset
from rec.features.as_of import EventIndex
from rec.features.encoders import Encoders, FeatureSpec
from rec.models.two_tower import HISTORY, TwoTower


@dataclass(frozen=True, slots=True)
class EncodedMoments:
    """Users at moments of the past.

    Attributes:
        user: position of the user, int32, (Q,).
        snapshot: the latest snapshot at or before the moment, int32, (Q,).
        history_end: end of what came before, in `TowerTables.log`, int64, (Q,).
        features: as-of features of the user at the moment, standardised, float32, (Q,) by name.
    """

    user: NDArray[np.int32]
    snapshot: NDArray[np.int32]
    history_end: NDArray[np.int64]
    features: dict[str, NDArray[np.float32]]

    @classmethod
    def at(
        cls,
        encoders: Encoders,
        index: EventIndex,
        user: NDArray[np.integer],
        at_ms: NDArray[np.int64],
        snapshot_ms: NDArray[np.int64],
    ) -> "EncodedMoments":
        """Users at times, from the events strictly before each; (Q,) both. snapshot_ms: ascending, (S,)."""
        return cls(
            user=user.astype(np.int32),
            snapshot=np.maximum(np.searchsorted(snapshot_ms, at_ms, side="right") - 1, 0).astype(np.int32),
            history_end=index.users.rows_before(user, at_ms),
            features=encoders.as_of(index, "user", user, at_ms),
        )

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, slots=True)
class TowerTables:
    """Features of users and items, and what users did, as arrays.

    Attributes:
        specs: the features.
        users, items: encoded features that do not depend on time, (U, ...) and (N, ...) by name.
        item_as_of: as-of features of all items at each snapshot, standardised, float32, (S, N) by name.
        log_start, log: slots of item_id of each user's events, 0 for ids the encoders do not know, oldest first: those
            of user u are log[log_start[u]:log_start[u + 1]]; (U + 1,) and (L,).
    """

    specs: dict[str, FeatureSpec]
    users: dict[str, NDArray]
    items: dict[str, NDArray]
    item_as_of: dict[str, NDArray[np.float32]]
    log_start: NDArray[np.int64]
    log: NDArray[np.int32]

    @classmethod
    def build(
        cls, dataset: Dataset, encoders: Encoders, index: EventIndex, snapshot_ms: NDArray[np.int64]
    ) -> "TowerTables":
        """The tables of a data set. index: the events that histories and as-of features are made of."""
        items = np.arange(dataset.interactions.n_items)
        encoded = encoders.encode("item", dataset.items)
        slots = encoded["item_id"]
        tiled, repeated = np.tile(items, len(snapshot_ms)), np.repeat(snapshot_ms, len(items))
        at = encoders.as_of(index, "item", tiled, repeated)
        return cls(
            specs=encoders.specs,
            users=encoders.encode("user", dataset.users),
            items=encoded,
            item_as_of={name: values.reshape(len(snapshot_ms), len(items)) for name, values in at.items()},
            log_start=index.users.indptr,
            log=np.where(slots < encoders.first_unknown("item_id"), slots, np.int32(0))[index.users.other],
        )

    @property
    def n_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.items["item_id"])


@dataclass(frozen=True)
class TowerInputs:
    """The tensors that a two-tower model of a config reads for moments and items."""

    tables: TowerTables
    moments: EncodedMoments
    config: RetrieverConfig

    def users(self, rows: NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
        """What the user tower reads at moments, (B, ...) by name."""
        place = torch.from_numpy(rows)
        user = torch.from_numpy(self.moments.user[rows].astype(np.int64))
        inputs = {name: table[user] for name, table in self._tensors["user"].items()}
        inputs |= {name: table[place] for name, table in self._tensors["moment"].items()}
        if self._history_length:
            inputs[HISTORY] = torch.from_numpy(self.history(rows))
        return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}

    def items(self, items: NDArray[np.int64], snapshot: int, device: torch.device) -> dict[str, Tensor]:
        """What the item tower reads of items at a snapshot, (C, ...) by name."""
        rows = torch.from_numpy(items)
        inputs = {name: table[rows] for name, table in self._tensors["item"].items()}
        inputs |= {name: table[snapshot][rows] for name, table in self._tensors["item_as_of"].items()}
        return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}

    def history(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Slots of the latest items before each moment, oldest first, padded on the left with 0, (B, H)."""
        place = self.moments.history_end[rows, None] + np.arange(-self._history_length, 0)
        known = place >= self.tables.log_start[self.moments.user[rows], None]
        return np.where(known, self.tables.log[np.where(known, place, 0)], 0)

    @property
    def _history_length(self) -> int:
        return max(self.config.user_tower.history_windows, default=0)

    @cached_property
    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """The features the towers read, as tensors that share the arrays' memory."""
        with torch.random.fork_rng(devices=[]):
            model = TwoTower(self.config, self.tables.specs)
        users, items = set(model.user_tower.embeddings), set(model.item_tower.embeddings)
        return {
            "user": _tensors(self.tables.users, users),
            "moment": _tensors(self.moments.features, users),
            "item": _tensors(self.tables.items, items),
            "item_as_of": _tensors(self.tables.item_as_of, items),
        }


def _tensors(arrays: Mapping[str, NDArray], names: set[str]) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # Arrays out of Ray's object store are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array) for name, array in arrays.items() if name in names}
