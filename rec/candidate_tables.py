"""Tables of candidates for many users: Parquet files that become a table by what is written last.

    part-<job>-00000.parquet ...   the candidates of a run of users, each written atomically
    _manifest.json                 of a Parquet folder: names the parts; without it there is no table
    _delta_log/                    of a Delta table: one commit adds the parts of a job, and drops those before it

A part's name says which job it belongs to, and a job's part is the same whoever writes it. So a run that was cut off is
gone on with by writing the parts that are not there, and a table whose files were lost, cut off or exchanged is mended
in the same way.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.schema import Schema as DeltaSchema
from deltalake.transaction import AddAction, create_table_with_add_actions
from pydantic import NonNegativeInt, ValidationError

from rec.candidate_parts import (
    SCHEMA,
    CandidateJob,
    ExpectedSize,
    PartSize,
    as_data_error,
    encoded,
    fitting_size,
    footer,
    read_part,
)
from rec.config import Config, TableFormat
from rec.errors import ConfigError, DataError
from rec.storage import Home

MANIFEST_FILE: Final = "_manifest.json"
DELTA_LOG: Final = "_delta_log"
FORMAT_VERSION: Final = 1


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

    @property
    def sizes(self) -> dict[str, PartSize]:
        """What each part has to have, by its name."""
        return {part.name: PartSize(part.n_rows, part.size) for part in self.parts}


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
    _sizes: Mapping[str, ExpectedSize]

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows of each file in turn, columns as in SCHEMA.

        Raises: DataError: naming a file that is not the one the table says.
        """
        for name, size in self._sizes.items():
            yield read_part(self._home, name, size)


def read_candidates(location: str) -> CandidateRows:
    """Opens a finished table of either format, as it is now.

    Raises: DataError: where there is none, or one that is not finished.
    """
    home = Home(location)
    with as_data_error():
        manifest = home.read(MANIFEST_FILE)
        has_log = bool(home.children(DELTA_LOG))
    if has_log:
        sizes = _logged(_delta_table(home))
        first = footer(home, next(iter(sizes))) if sizes else None
        return CandidateRows(home.location, first and first.job, home, sizes)
    if manifest is None:
        raise DataError(
            f"there is no finished table of candidates: {MANIFEST_FILE} is written last; run `tandem candidates --out` "
            "again, which goes on where it was",
            file=home.location,
        )
    found = _of_manifest(manifest, home.show(MANIFEST_FILE))
    return CandidateRows(home.location, found.job, home, found.sizes)


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

    def promised(self, job: CandidateJob) -> Mapping[str, ExpectedSize] | None:
        """What the finished table of a job says its parts are, by name; None where there is no such table.

        Raises: ConfigError: when the folder holds another table, which is not to be mixed with or lost.
        """
        with as_data_error():
            manifest = self._home.read(MANIFEST_FILE)
            has_log = bool(self._home.children(DELTA_LOG))
        if self._kind == "delta":
            if manifest is not None:
                raise ConfigError(
                    "this is a folder of Parquet files; name another, or take --format parquet", file=self.location
                )
            logged = _logged(self._candidates_table()) if has_log else {}
            return logged if set(logged) == set(_names(job)) else None
        if has_log:
            raise ConfigError("this is a Delta table; name another folder, or take --format delta", file=self.location)
        if manifest is None:
            self._refuse_others(job)
            return None
        found = _of_manifest(manifest, self._home.show(MANIFEST_FILE))
        if found.job != job:
            raise _other_job(found.job, job, self.location)
        return found.sizes

    def written(self, job: CandidateJob, promised: Mapping[str, ExpectedSize] | None) -> dict[int, PartSize]:
        """The parts that are there, whole, of this job and number, and of the size that a finished table promised."""
        found = {number: fitting_size(self._home, name) for number, name in enumerate(_names(job))}
        return {
            number: size
            for number, size in found.items()
            if size is not None and (promised is None or promised.get(job.part(number)) == size)
        }

    def write_part(self, job: CandidateJob, number: int, rows: pa.Table) -> PartSize:
        """Writes a part, whole or not at all.

        Args: rows: of its users, columns as in SCHEMA.
        """
        content = encoded(job, number, rows)
        with as_data_error():
            self._home.write(job.part(number), content)
        return PartSize(len(rows), len(content))

    def finish(self, job: CandidateJob, sizes: Mapping[int, PartSize]) -> None:
        """Makes the parts a table.

        Args: sizes: of all of them, by number.
        """
        parts = {job.part(number): sizes[number] for number in range(job.n_parts)}
        if self._kind == "delta":
            self._commit(job, parts)
            return
        listed = tuple(ManifestPart(name=name, n_rows=size.n_rows, size=size.n_bytes) for name, size in parts.items())
        manifest = Manifest(format_version=FORMAT_VERSION, job=job, columns=tuple(SCHEMA.names), parts=listed)
        with as_data_error():
            self._home.write(MANIFEST_FILE, (manifest.model_dump_json(indent=1) + "\n").encode())

    def _commit(self, job: CandidateJob, parts: Mapping[str, PartSize]) -> None:
        """Replaces what the table held by the parts; of those it holds already, those whose size has changed."""
        table = self._candidates_table() if self._home.children(DELTA_LOG) else None
        logged = {} if table is None else _logged(table)
        held = set(logged) == set(parts)
        now_ms = int(time.time() * 1000)
        actions = [
            AddAction(name, size.n_bytes, {}, now_ms, True, json.dumps({"numRecords": size.n_rows}))
            for name, size in parts.items()
            if not held or logged[name] != size
        ]
        properties = CommitProperties(custom_metadata={"tandem.job": job.model_dump_json()})
        schema = DeltaSchema.from_arrow(SCHEMA)
        try:
            if table is None:
                create_table_with_add_actions(_uri(self._home), schema, actions, commit_properties=properties)
            elif actions:
                # A commit that removes and adds one path says nothing certain about it.
                mode = "append" if held else "overwrite"
                table.create_write_transaction(list(actions), mode, schema, commit_properties=properties)
        except (DeltaError, OSError) as error:
            raise DataError(
                f"the table could not be written: {error}; check path, credentials and permissions, and run again",
                file=self.location,
            ) from error

    def _candidates_table(self) -> DeltaTable:
        table = _delta_table(self._home)
        if [field.name for field in table.schema().fields] != SCHEMA.names:
            raise ConfigError("this Delta table is not one of candidates; name another folder", file=self.location)
        return table

    def _refuse_others(self, job: CandidateJob) -> None:
        """A folder of Parquet files takes one job: parts of two in one folder would be read as one table."""
        with as_data_error():
            others = [name for name in self._home.children("") if name.endswith(".parquet") and job.key not in name]
        if not others:
            return
        try:
            found = footer(self._home, others[0])
        except DataError:
            found = None
        if found is None or found.job is None:
            raise ConfigError("holds other Parquet files; name another folder", file=self._home.show(others[0]))
        raise _other_job(found.job, job, self.location)


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
    if [part.name for part in manifest.parts] != _names(manifest.job):
        raise DataError("names other parts than its job has; delete it and run again, which writes it anew", file=file)
    return manifest


def _delta_table(home: Home) -> DeltaTable:
    try:
        return DeltaTable(_uri(home))
    except (DeltaError, OSError) as error:
        raise DataError(f"not readable as a Delta table: {error}", file=home.location) from error


def _logged(table: DeltaTable) -> dict[str, ExpectedSize]:
    """The files of a Delta table by name, and how large its log says they are."""
    files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    sizes = {file["path"].rsplit("/", 1)[-1]: (file.get("num_records"), file["size_bytes"]) for file in files}
    return dict(sorted(sizes.items()))


def _names(job: CandidateJob) -> list[str]:
    return [job.part(number) for number in range(job.n_parts)]


def _uri(home: Home) -> str:
    return home.location if home.folder is None else str(home.folder)
