"""Candidates that were found overnight, as a source: each user's list is looked up in a table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from rec.candidate_tables import CandidateRows
from rec.errors import BundleError, DataError
from rec.features.snapshot import Snapshot
from rec.retrieval.arrays import arrays_file, forget, read_arrays, write_arrays
from rec.retrieval.protocol import CandidateSource, ExtensibleSource
from rec.retrieval.top_k import blocks
from rec.state import Candidates, UserStates

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them
# Users whose lists are put in order together.
BLOCK: Final = 65_536


@final
@dataclass(frozen=True, slots=True)
class BatchSource:
    """Answers users from a table of candidates, and those who are not in it from another source.

    A list that ends before enough is found, as all of it was seen meanwhile or more is asked for, goes on with what the
    other source finds; those scores say nothing beside the list's, so they are counted down from its lowest. A loaded
    source reads its table from the disk as it is asked: replicas on one machine share what of it is in memory.

    Attributes:
        items: catalogue positions by the user's row in the bundle, best first, -1 after its end, int32, (U, K).
        list_scores: as they are in the table, or -rank where those order a list otherwise, as a blend's do; -inf where
            items is -1, float64, (U, K).
        n_items: size of the catalogue.
        fallback: for users without a list, and after the end of a list.
    """

    items: NDArray[np.int32]
    list_scores: NDArray[np.float64]
    n_items: int
    fallback: CandidateSource
    name: ClassVar[str] = "batch"

    @classmethod
    def build(cls, rows: CandidateRows, snapshot: Snapshot, fallback: CandidateSource) -> Self:
        """The lists of a table, which another version may have found, for the users and items of a snapshot.

        Users and items that the snapshot does not have are left out. Takes 12 bytes for each user and place in a list.

        Args: rows: `read_candidates` opens them.
        Raises: DataError: for a rank below 0, or a score that is not finite.
        """
        user_ids, item_ids = pa.array(snapshot.user_ids, pa.string()), pa.array(snapshot.item_ids, pa.string())
        items = np.full((len(user_ids), 0), -1, np.int32)
        scores = np.full((len(user_ids), 0), -np.inf)
        for table in rows:
            user, item = (_places(table[name], ids) for name, ids in (("user_id", user_ids), ("item_id", item_ids)))
            rank, score = table["rank"].to_numpy(), table["score"].to_numpy()
            wrong = np.flatnonzero((rank < 0) | ~np.isfinite(score))
            if len(wrong):
                raise DataError(
                    f"ranks begin at 0 and scores are finite; found rank {rank[wrong[0]]}, score {score[wrong[0]]}; "
                    "write the table again",
                    file=rows.location,
                    row=int(wrong[0]),
                )
            known = (user >= 0) & (item >= 0)
            longest = int(rank.max(initial=-1)) + 1
            if longest > items.shape[1]:
                more = ((0, 0), (0, longest - items.shape[1]))
                items = np.pad(items, more, constant_values=-1)
                scores = np.pad(scores, more, constant_values=-np.inf)
            items[user[known], rank[known]] = item[known]
            scores[user[known], rank[known]] = score[known]
        for part in blocks(len(items), BLOCK):
            items[part], scores[part] = _in_order(items[part], scores[part])
        return cls(items, scores, len(item_ids), fallback)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The first k of each user's list that are not excluded, then what the fallback finds."""
        listed = self._listed(states)
        floor = np.where(listed.items >= 0, listed.scores, np.inf).min(axis=1, initial=np.inf)
        unlisted = np.isinf(floor)
        kept = _first(_without_excluded(listed, states, self.n_items), k)
        if (kept.items[:, -1] >= 0).all():
            return kept
        others = self.fallback.candidates(states, k + self.items.shape[1])
        repeated = _among(others.items, kept.items, self.n_items)
        fresh = _first(_only(others, ~repeated), k)
        below = floor[:, None] - 1.0 - np.arange(k)
        scores = np.where(unlisted[:, None], fresh.scores, np.where(fresh.items >= 0, below, -np.inf))
        both = Candidates(
            np.concatenate([kept.items, fresh.items], axis=1), np.concatenate([kept.scores, scores], axis=1), self.name
        )
        return _first(both, k)

    def extended(self, n_items: int) -> Self:
        """The same lists for a catalogue to which items were added at the end, which none of them holds."""
        if not isinstance(self.fallback, ExtensibleSource):
            raise TypeError(f"the other source has to be extended, too; {self.fallback.name} cannot be")
        return replace(self, n_items=n_items, fallback=self.fallback.extended(n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes batch.safetensors; the fallback is saved by itself."""
        counts = np.array([self.n_items], np.int64)
        return write_arrays(folder, self.name, {"items": self.items, "scores": self.list_scores, "n_items": counts})

    @classmethod
    def load(cls, folder: Path, fallback: CandidateSource) -> Self:
        """Opens batch.safetensors, whose lists stay on the disk.

        Raises: BundleError: naming the file that is missing or damaged.
        """
        names = ("items", "scores", "n_items")
        items, scores, counts = read_arrays(folder, cls.name, *names, mapped=("items", "scores"))
        if items.ndim != 2 or items.shape != scores.shape:
            raise BundleError(
                f"must hold as many scores as items, found {scores.shape} and {items.shape}; save it again",
                file=str(folder / arrays_file(cls.name)),
            )
        return cls(items, scores, int(counts[0]), fallback)

    def _listed(self, states: UserStates) -> Candidates:
        known = (states.user >= 0) & (states.user < len(self.items))
        rows = states.user[known]
        items = np.full((len(states), self.items.shape[1]), -1, np.int32)
        scores = np.full(items.shape, -np.inf)
        items[known], scores[known] = self.items[rows], self.list_scores[rows]
        forget(self.items, self.list_scores)
        return Candidates(items, scores, self.name)


def _places(ids: pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    """Where ids are among the known ones, -1 for those that are not."""
    return pc.index_in(ids, value_set=known).fill_null(-1).to_numpy().astype(np.int64)


def _in_order(items: NDArray[np.int32], scores: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Lists without gaps, in the order of their ranks; the scores of one that they order otherwise become -rank."""
    order = np.argsort(items < 0, axis=1, kind="stable")
    items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    falls = scores[:, :-1] > scores[:, 1:]
    tied = (scores[:, :-1] == scores[:, 1:]) & (items[:, :-1] < items[:, 1:])
    agree = (falls | tied | (items[:, 1:] < 0)).all(axis=1)
    places = np.where(items >= 0, -np.arange(items.shape[1], dtype=np.float64), -np.inf)
    return items, np.where(agree[:, None], scores, places)


def _without_excluded(found: Candidates, states: UserStates, n_items: int) -> Candidates:
    owners = np.repeat(np.arange(len(states)), np.diff(states.excluded_indptr))
    excluded = owners * np.int64(n_items) + states.excluded
    return _only(found, ~np.isin(_keys(found.items, n_items), excluded))


def _among(items: NDArray[np.int32], others: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """Which items (B, M) are among the others of the same row, (B, L)."""
    return np.isin(_keys(items, n_items), _keys(others, n_items)[others >= 0])


def _keys(items: NDArray[np.int32], n_items: int) -> NDArray[np.int64]:
    """One number for each row and item; that of no item is below 0."""
    return np.where(items >= 0, np.arange(len(items))[:, None] * np.int64(n_items) + items, -1)


def _only(found: Candidates, kept: NDArray[np.bool_]) -> Candidates:
    """The kept candidates in the same order, without gaps."""
    kept = kept & (found.items >= 0)
    order = np.argsort(~kept, axis=1, kind="stable")
    items = np.take_along_axis(np.where(kept, found.items, -1), order, axis=1)
    scores = np.take_along_axis(np.where(kept, found.scores, -np.inf), order, axis=1)
    return Candidates(items, scores, found.source)


def _first(found: Candidates, k: int) -> Candidates:
    """The first k that are there; rows of fewer are filled with -1."""
    closed = _only(found, found.items >= 0)
    items = np.full((len(closed.items), k), -1, np.int32)
    scores = np.full(items.shape, -np.inf)
    width = min(k, closed.items.shape[1])
    items[:, :width], scores[:, :width] = closed.items[:, :width], closed.scores[:, :width]
    return Candidates(items, scores, found.source)
