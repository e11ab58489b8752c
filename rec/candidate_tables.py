"""Tables of candidates for many users: Parquet files that become a table by what is written last.

    part-<job>-00000.parquet ...   the candidates of a run of users, each written atomically
    _manifest.json                 of a Parquet folder: names the parts; without it there is no table
    _delta_log/                    of a Delta table: one commit adds the parts of a job, and drops those before it

A part's name says which job it belongs to, and a job's part is the same whoever writes it. So a run that was cut off is
gone on with by writing the parts that are not there.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, final

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.schema import Schema as DeltaSchema
from deltalake.transaction import AddAction, create_table_with_add_actions
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from rec.config import Config, TableFormat
from rec.errors import BundleError, ConfigError, DataError
from rec.storage import Home

MANIFEST_FILE: Final = "_manifest.json"
DELTA_LOG: Final = "_delta_log"
FORMAT_VERSION: Final = 1
SCHEMA: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
_JOB_KEY: Final = b"tandem.job"


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


class ManifestPart(Config):
    """One file of a Parquet folder; size in bytes."""

    name: str
    n_rows: NonNegativeInt
    size: NonNegativeInt


class Manifest(Config):
    """The content of _manifest.json."""

    format_version: int
    job: CandidateJob
    columns: tuple[str, ...]
    parts: tuple[ManifestPart, ...]


class PartSize(NamedTuple):
    """How large a part is."""

    n_rows: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class CandidateRows:
    """Candidates of a whole table, file by file.

    Attributes:
        location: of the table, without credentials.
        job: what was written; None where others rewrote the files, by compacting them, say.
    """

    location: str
    job: CandidateJob | None
    _home: Home
    _names: tuple[str, ...]

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows of each file in turn, columns as in SCHEMA."""
        for name in self._names:
            with _as_data_error():
                content = self._home.read(name)
            if content is None:
                raise DataError("the table names this file, and it is gone", file=self._home.show(name))
            yield _parquet(content, self._home.show(name)).read(columns=SCHEMA.names)


def read_candidates(location: str) -> CandidateRows:
    """Opens a finished table of either format, as it is now.

    Raises: DataError: where there is none, or one that is not finished.
    """
    home = Home(location)
    with _as_data_error():
        manifest = home.read(MANIFEST_FILE)
        has_log = bool(home.children(DELTA_LOG))
    if has_log:
        names = _names_of(_delta_table(home))
        first = home.read(names[0]) if names else None
        metadata = {} if first is None else _parquet(first, home.show(names[0])).schema_arrow.metadata or {}
        job = CandidateJob.model_validate_json(metadata[_JOB_KEY]) if _JOB_KEY in metadata else None
        return CandidateRows(home.location, job, home, tuple(names))
    if manifest is None:
        raise DataError(
            f"there is no finished table of candidates: {MANIFEST_FILE} is written last; run `tandem candidates --out` "
            "again, which goes on where it was",
            file=home.location,
        )
    found = _of_manifest(manifest, home.show(MANIFEST_FILE))
    return CandidateRows(home.location, found.job, home, tuple(part.name for part in found.parts))


@final
class CandidateFolder:
    """Where a job's parts are written, and made a table."""

    def __init__(self, location: str, kind: TableFormat) -> None:
        """Opens a folder or object-store URL; nothing is read or created yet."""
        self._home = Home(location)
        self._kind: TableFormat = kind

    @property
    def location(self) -> str:
        """Where it is, without credentials."""
        return self._home.location

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keeps other runs on this machine out of a local folder, and removes what dead ones had half-written.

        Raises: DataError: when another run is at work there, or the folder cannot be written.
        """
        folder = self._home.folder
        if folder is None:
            yield
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"must be a folder that can be written: {error}", file=str(folder)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for pattern in (".part-*", f".{MANIFEST_FILE}-*"):
                for path in folder.glob(pattern):
                    with suppress(FileNotFoundError):
                        path.unlink()
            yield
        except BlockingIOError as error:
            raise DataError(
                "another run is writing here; wait for it, or name another folder", file=str(folder)
            ) from error
        finally:
            os.close(descriptor)

    def finished(self, job: CandidateJob) -> int | None:
        """How many rows the table of a job has, None where it is not finished.

        Raises: ConfigError: when the folder holds another table, which is not to be mixed with or lost.
        """
        with _as_data_error():
            manifest = self._home.read(MANIFEST_FILE)
            has_log = bool(self._home.children(DELTA_LOG))
        if self._kind == "delta":
            if manifest is not None:
                raise ConfigError(
                    "this is a folder of Parquet files; name another, or take --format parquet", file=self.location
                )
            return self._committed(job) if has_log else None
        if has_log:
            raise ConfigError("this is a Delta table; name another folder, or take --format delta", file=self.location)
        if manifest is None:
            self._refuse_others(job)
            return None
        found = _of_manifest(manifest, self._home.show(MANIFEST_FILE))
        if found.job != job:
            raise _other_job(found.job, job, self.location)
        return sum(part.n_rows for part in found.parts)

    def missing(self, job: CandidateJob) -> list[int]:
        """The parts that are not there yet."""
        names = [job.part(number) for number in range(job.n_parts)]
        with _as_data_error():
            found = set(self._home.existing(names))
        return [number for number, name in enumerate(names) if name not in found]

    def write_part(self, job: CandidateJob, number: int, rows: pa.Table) -> "PartSize":
        """Writes a part, whole or not at all.

        Args: rows: of its users, columns as in SCHEMA.
        """
        buffer = pa.BufferOutputStream()
        named = rows.replace_schema_metadata({_JOB_KEY: job.model_dump_json()})
        pq.write_table(named, buffer, compression="zstd")
        with _as_data_error():
            content = buffer.getvalue()
            self._home.write(job.part(number), content.to_pybytes())
        return PartSize(len(rows), content.size)

    def finish(self, job: CandidateJob, written: Mapping[int, "PartSize"]) -> int:
        """Makes the parts, all of which are there, a table; returns how many rows it has.

        Args: written: what `write_part` said of parts; the others are looked at.
        """
        sizes = [written.get(number) or self._size(job.part(number)) for number in range(job.n_parts)]
        if self._kind == "delta":
            self._commit(job, sizes)
        else:
            parts = tuple(
                ManifestPart(name=job.part(number), n_rows=part.n_rows, size=part.n_bytes)
                for number, part in enumerate(sizes)
            )
            manifest = Manifest(format_version=FORMAT_VERSION, job=job, columns=tuple(SCHEMA.names), parts=parts)
            with _as_data_error():
                self._home.write(MANIFEST_FILE, (manifest.model_dump_json(indent=1) + "\n").encode())
        return sum(part.n_rows for part in sizes)

    def _size(self, name: str) -> "PartSize":
        with _as_data_error():
            content = self._home.read(name)
        if content is None:
            raise DataError("this part is gone; run again, which writes it anew", file=self._home.show(name))
        return PartSize(_parquet(content, self._home.show(name)).metadata.num_rows, len(content))

    def _commit(self, job: CandidateJob, sizes: Sequence["PartSize"]) -> None:
        now_ms = int(time.time() * 1000)
        actions = [
            AddAction(job.part(number), part.n_bytes, {}, now_ms, True, json.dumps({"numRecords": part.n_rows}))
            for number, part in enumerate(sizes)
        ]
        properties = CommitProperties(custom_metadata={"tandem.job": job.model_dump_json()})
        schema = DeltaSchema.from_arrow(SCHEMA)
        try:
            if self._home.children(DELTA_LOG):
                self._candidates_table().create_write_transaction(
                    list(actions), "overwrite", schema, commit_properties=properties
                )
            else:
                create_table_with_add_actions(_uri(self._home), schema, actions, commit_properties=properties)
        except (DeltaError, OSError) as error:
            raise DataError(
                f"the table could not be written: {error}; check path, credentials and permissions, and run again",
                file=self.location,
            ) from error

    def _committed(self, job: CandidateJob) -> int | None:
        """Rows of the Delta table, None where it does not have the parts of this job and no others."""
        table = self._candidates_table()
        if set(_names_of(table)) != {job.part(number) for number in range(job.n_parts)}:
            return None
        return sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist())

    def _candidates_table(self) -> DeltaTable:
        table = _delta_table(self._home)
        if [field.name for field in table.schema().fields] != SCHEMA.names:
            raise ConfigError("this Delta table is not one of candidates; name another folder", file=self.location)
        return table

    def _refuse_others(self, job: CandidateJob) -> None:
        """A folder of Parquet files takes one job: parts of two in one folder would be read as one table."""
        with _as_data_error():
            others = [name for name in self._home.children("") if name.endswith(".parquet") and job.key not in name]
        if not others:
            return
        with _as_data_error():
            metadata = _parquet(self._home.read(others[0]) or b"", self._home.show(others[0])).schema_arrow.metadata
        if _JOB_KEY not in (metadata or {}):
            raise ConfigError("holds other Parquet files; name another folder", file=self._home.show(others[0]))
        raise _other_job(CandidateJob.model_validate_json(metadata[_JOB_KEY]), job, self.location)


def _other_job(found: CandidateJob, job: CandidateJob, location: str) -> ConfigError:
    theirs, ours = found.model_dump(), job.model_dump()
    told = ", ".join(f"{name} {value} (now {ours[name]})" for name, value in theirs.items() if value != ours[name])
    return ConfigError(
        f"holds candidates of another run: {told}; give the same options to go on with it, or name another folder",
        file=location,
    )


def _of_manifest(content: bytes, file: str) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"damaged: {error}; delete it and run again, which writes it anew", file=file) from error
    if manifest.format_version != FORMAT_VERSION:
        raise DataError(
            f"must be of format {FORMAT_VERSION}, found {manifest.format_version}; write the table again", file=file
        )
    return manifest


def _parquet(content: bytes, file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(content))
    except pa.ArrowInvalid as error:
        raise DataError(f"not readable as Parquet: {error}; delete it and run again", file=file) from error


def _delta_table(home: Home) -> DeltaTable:
    try:
        return DeltaTable(_uri(home))
    except (DeltaError, OSError) as error:
        raise DataError(f"not readable as a Delta table: {error}", file=home.location) from error


def _names_of(table: DeltaTable) -> list[str]:
    return sorted(uri.rsplit("/", 1)[1] for uri in table.file_uris())


def _uri(home: Home) -> str:
    return home.location if home.folder is None else str(home.folder)


@contextmanager
def _as_data_error() -> Iterator[None]:
    """What the storage refuses here is a table, no bundle."""
    try:
        yield
    except BundleError as error:
        raise DataError(error.message, file=error.file) from error
