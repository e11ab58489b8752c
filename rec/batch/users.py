"""The users of a bundle, a few at a time, so that no more of them are in memory than are being answered."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rec.errors import DataError

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them
# What is read ahead of one column, in bytes: a row group may hold a million users.
BUFFER: Final = 2**20


@final
@dataclass(frozen=True, slots=True)
class SelectedUsers:
    """All rows of a users table, or some of them, in the order of the table.

    Attributes:
        file: users.parquet of a bundle.
        rows: which rows, ascending; None for all, (M,).
        n_users: how many.
    """

    file: Path
    rows: NDArray[np.int64] | None
    n_users: int

    @classmethod
    def everybody(cls, file: Path) -> Self:
        """All users of the table."""
        return cls(file, None, pq.ParquetFile(file).metadata.num_rows)

    @classmethod
    def named(cls, file: Path, user_ids: Sequence[str], *, listed_in: str | None = None) -> Self:
        """Users by id, each once.

        Args: listed_in: the file that named them, one a line, for messages.
        Raises: DataError: naming the first that the table does not have.
        """
        if not user_ids:
            raise DataError("names no user; list at least one", file=listed_in, field="user_ids")
        wanted = pa.array(list(dict.fromkeys(user_ids)), pa.string())
        found: list[NDArray[np.int64]] = []
        known = np.zeros(len(wanted), bool)
        first = 0
        for batch in open_users(file).iter_batches(batch_size=65_536, columns=["user_id"]):
            places = pc.index_in(batch.column(0).cast(pa.string()), value_set=wanted)
            hit = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            known[places.take(pa.array(hit)).to_numpy()] = True
            found.append(first + hit)
            first += len(batch)
        if not known.all():
            place = int(np.flatnonzero(~known)[0])
            name = wanted[place].as_py()
            raise DataError(
                f"user {name!r} is not in the bundle, nor are {int((~known).sum()) - 1} others of {len(wanted)}; leave "
                "them out: who is unknown is answered from what is popular when they ask",
                file=listed_in,
                row=None if listed_in is None else list(user_ids).index(name) + 1,
                field="user_ids",
            )
        rows = np.concatenate(found)
        return cls(file, rows, len(rows))

    @property
    def sha256(self) -> str | None:
        """Of the rows; None for all."""
        return None if self.rows is None else hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()

    def parts(self, size: int, wanted: Collection[int]) -> Iterator[tuple[int, NDArray[np.int64], pa.Table]]:
        """Runs of `size` users, the last one shorter: number, rows in the table, and the rows themselves.

        Args: wanted: numbers of the parts to read; the others are passed over.
        """
        number, held, first = 0, [], 0
        rows_held: list[NDArray[np.int64]] = []
        n_held = 0
        for batch in open_users(self.file).iter_batches(batch_size=size):
            rows = np.arange(first, first + len(batch))
            first += len(batch)
            if self.rows is not None:
                low, high = np.searchsorted(self.rows, (rows[0], rows[-1] + 1))
                rows = self.rows[low:high]
                batch = batch.take(pa.array(rows - (first - len(batch))))
            while n_held + len(rows) >= size:
                taken = size - n_held
                held.append(batch.slice(0, taken))
                rows_held.append(rows[:taken])
                if number in wanted:
                    yield number, np.concatenate(rows_held), pa.Table.from_batches(held)
                number, n_held = number + 1, 0
                held, rows_held = [], []
                batch, rows = batch.slice(taken), rows[taken:]
            if len(rows):
                held.append(batch)
                rows_held.append(rows)
                n_held += len(rows)
        if n_held and number in wanted:
            yield number, np.concatenate(rows_held), pa.Table.from_batches(held)


def open_users(file: Path) -> pq.ParquetFile:
    """A users table that is read a little at a time, however large its row groups are."""
    return pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
