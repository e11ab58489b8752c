"""Parts of a table of candidates: Parquet files that say in their footers which part of which job they are."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt, ValidationError

from rec.config import Config
from rec.errors import BundleError, DataError
from rec.storage import Home

SCHEMA: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
REMEDY: Final = "run `tandem candidates` again with the same options, which writes it anew"
_JOB_KEY: Final = b"tandem.job"
_NAME_KEY: Final = b"tandem.part"
_PART: Final = re.compile(r"part-[0-9a-f]{12}-\d{5,}\.parquet")


class CandidateJob(Config):
    """What a table holds. Equal jobs have equal parts; how many workers write them is no part of it.

    Attributes:
        version: of the model.
        k: candidates a user, at most.
        ranked: whether both stages chose and ordered them, or retrieval alone.
        n_users: how many users there are.
        users_sha256: of the users' rows in the bundle; None where it is all of them.
        users_per_part: users of each part but the last.
    """

    version: str
    k: PositiveInt
    ranked: bool
    n_users: PositiveInt
    users_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    users_per_part: PositiveInt

    @property
    def key(self) -> str:
        """Names the job in its parts."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return -(-self.n_users // self.users_per_part)

    def part(self, number: int) -> str:
        """Name of a part, 0 .. n_parts - 1."""
        return f"part-{self.key}-{number:05d}.parquet"


class PartSize(NamedTuple):
    """How large a part is."""

    n_rows: int
    n_bytes: int


# A PartSize; the rows are None where whoever wrote the file did not say.
ExpectedSize = tuple[int | None, int]


class Footer(NamedTuple):
    """What a Parquet file says of itself: its size, and which part of which job it is, None where it does not say."""

    size: PartSize
    name: str | None
    job: CandidateJob | None


def encoded(job: CandidateJob, number: int, rows: pa.Table) -> bytes:
    """A part as a file. Args: rows: of its users, columns as in SCHEMA."""
    buffer = pa.BufferOutputStream()
    named = rows.replace_schema_metadata({_JOB_KEY: job.model_dump_json(), _NAME_KEY: job.part(number)})
    pq.write_table(named, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue().to_pybytes()


def footer(home: Home, name: str) -> Footer | None:
    """Reads the end of a file; None where there is none.

    Raises: DataError: where it is not readable as Parquet.
    """
    with as_data_error(), home.opened(name) as file:
        return None if file is None else _footer(file, home.show(name))


def fitting_size(home: Home, name: str) -> PartSize | None:
    """How large a part is; None where the file is not there, is cut off, or is another part under this name."""
    try:
        found = footer(home, name)
    except DataError:
        return None
    return found.size if found is not None and found.name == name else None


def read_part(home: Home, name: str, expected: ExpectedSize) -> pa.Table:
    """The rows of a part, or of a file that others made of parts; columns as in SCHEMA.

    Args: expected: size that it has to have.
    Raises: DataError: where the file is gone, cut off, damaged, or another part.
    """
    shown = home.show(name)
    with as_data_error():
        content = home.read(name)
    if content is None:
        raise DataError(f"the table names this file, and it is gone; {REMEDY}", file=shown)
    found = _footer(pa.BufferReader(content), shown)
    if _PART.fullmatch(name) and found.name != name:
        raise DataError(f"must be the part of its name, and says it is {found.name or 'none'}; {REMEDY}", file=shown)
    n_rows, n_bytes = expected
    if found.size != (found.size.n_rows if n_rows is None else n_rows, n_bytes):
        raise DataError(
            f"must be of {n_rows} rows and {n_bytes} bytes, as the table says, found {found.size.n_rows} rows and "
            f"{found.size.n_bytes} bytes; {REMEDY}",
            file=shown,
        )
    with _readable(shown):
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        return file.read(columns=SCHEMA.names)


def _footer(source: pa.NativeFile, shown: str) -> Footer:
    with _readable(shown):
        file = pq.ParquetFile(source)
        metadata = file.schema_arrow.metadata or {}
        job = CandidateJob.model_validate_json(metadata[_JOB_KEY]) if _JOB_KEY in metadata else None
        name = metadata[_NAME_KEY].decode() if _NAME_KEY in metadata else None
        return Footer(PartSize(file.metadata.num_rows, source.size()), name, job)


@contextmanager
def as_data_error() -> Iterator[None]:
    """What the storage refuses here is a table, no bundle."""
    try:
        yield
    except BundleError as error:
        raise DataError(error.message, file=error.file) from error


@contextmanager
def _readable(shown: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"not readable as Parquet: {error}; delete it and {REMEDY}", file=shown) from error
