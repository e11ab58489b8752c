"""Candidates of a run of users, as rows of a table."""

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rec.batch.users import open_users
from rec.bundle import Bundle
from rec.candidate_parts import SCHEMA
from rec.features.snapshot import Snapshot
from rec.recommender import USERS_FILE, Recommender
from rec.retrieval.top_k import blocks
from rec.state import Candidates, UserStates

# Users at once: the ranker's feature rows of all their candidates are in memory together.
BLOCK: Final = 256


def load_without_users(bundle: Bundle) -> Recommender:
    """A bundle's recommender that knows its first user alone: the others are given with their rows.

    Args: bundle: verified.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in bundle.manifest.files:
            if file != USERS_FILE:
                (folder / file).symlink_to(bundle.path(file).absolute())
        first = next(open_users(bundle.path(USERS_FILE)).iter_batches(batch_size=1))
        pq.write_table(pa.Table.from_batches([first]), folder / USERS_FILE)
        return Recommender.from_bundle(Bundle(folder, bundle.manifest))


@final
@dataclass(frozen=True)
class CandidateWriter:
    """Answers users of whom it holds nothing but the rows it is given.

    Attributes:
        recommender: of the bundle; `load_without_users` makes one.
        k: candidates a user.
        ranked: whether both stages choose and order them.
    """

    recommender: Recommender
    k: int
    ranked: bool

    @cached_property
    def _item_ids(self) -> pa.Array:
        return pa.array(self.recommender.item_ids, pa.string())

    def rows(self, users: pa.Table, places: NDArray[np.int64]) -> pa.Table:
        """The candidates of users, one row each, best first; columns as in SCHEMA.

        Args: users: rows of the bundle's users table. places: where they are in it, (B,).
        """
        snapshot = self.recommender.snapshot.with_users(users.to_pandas())
        found = [self._of_block(snapshot, places, block) for block in blocks(len(places), BLOCK)]
        return pa.concat_tables(found)

    def _of_block(self, snapshot: Snapshot, places: NDArray[np.int64], block: slice) -> pa.Table:
        """The rows of some users of a snapshot that knows them all."""
        states = snapshot.user_states(np.arange(block.start, block.stop))
        states = replace(states, user=places[block].astype(np.int32))
        found = best_candidates(self.recommender, states, self.k, ranked=self.ranked)
        user, rank = np.nonzero(found.items >= 0)
        return pa.Table.from_arrays(
            [
                pa.array(snapshot.user_ids[block], pa.string()).take(pa.array(user)),
                pa.array(rank, pa.int32()),
                self._item_ids.take(pa.array(found.items[user, rank])),
                pa.array(found.scores[user, rank]),
                _sources(found, user, rank),
            ],
            schema=SCHEMA,
        )


def best_candidates(recommender: Recommender, states: UserStates, k: int, *, ranked: bool) -> Candidates:
    """The k best of each user: of retrieval with its scores, or of both stages with the ranker's.

    The items are those of `retrieve` and `top_k`.
    """
    if not ranked:
        return recommender.retrieve(states, k)
    candidates = recommender.retrieve(states, max(k, recommender.config.ranker.n_candidates))
    scores = recommender.rank(states, candidates)
    best = recommender.best_columns(candidates, scores, k)
    columns = np.maximum(best, 0)
    chosen = candidates.taken(columns)
    return replace(
        chosen,
        items=np.where(best >= 0, chosen.items, np.int32(-1)),
        scores=np.where(best >= 0, np.take_along_axis(scores, columns, axis=1), -np.inf),
    )


def _sources(found: Candidates, user: NDArray[np.intp], rank: NDArray[np.intp]) -> pa.Array:
    """The source of each candidate: of several, the first."""
    if found.provenance is None:
        return pa.repeat(found.source, len(user))
    bits = found.provenance.found_by[user, rank].astype(np.int64)
    first = np.log2(bits & -bits).astype(np.int64)
    return pa.array(found.provenance.names, pa.string()).take(pa.array(first))
