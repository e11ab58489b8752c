"""Writing a table of candidates: which parts are missing, who writes them, and what makes them a table."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rec.batch.scoring import CandidateWriter, load_without_users
from rec.batch.users import SelectedUsers
from rec.candidate_parts import CandidateJob, PartSize
from rec.candidate_tables import CandidateFolder
from rec.config import BatchConfig, TableFormat
from rec.errors import DataError
from rec.process_memory import peak_mib
from rec.recommender import USERS_FILE
from rec.registry import Registry
from rec.storage import Home

Part = tuple[int, NDArray[np.int64], pa.Table]


class PartReport(NamedTuple):
    """What became of a part; the seconds are the writer's, loading apart, and so is the memory: its largest so far.

    `processor_s` are of all its threads, so that users a second and core mean the same however many there are.
    """

    number: int
    size: PartSize
    n_users: int
    seconds: float
    processor_s: float
    peak_mib: float


class Task(NamedTuple):
    """What a writer has to know, wherever it runs: places that mean the same to every worker, and the job."""

    home: str
    out: str
    kind: TableFormat
    job: CandidateJob


def write_candidates(
    config: BatchConfig,
    out: str,
    *,
    home: str,
    version: str | None = None,
    user_ids: Sequence[str] | None = None,
    listed_in: str | None = None,
) -> dict[str, Any]:
    """Writes the candidates of users into a table, or goes on with a run that was cut off.

    Every part appears whole, and the table when the last one has. Nothing is done twice: a run that was killed at any
    moment is gone on with by the same call, also with another number of workers, and what a finished table has lost
    since is written anew. Workers read the bundle and write the parts themselves, so that home and out must be places
    that all of them reach.

    Args: out: a folder or object-store URL; one of Parquet files takes one run, a Delta table is replaced by each.
        home, version: where the model is, and which one; the current one by default. user_ids: whom to answer, all
        users of the bundle by default. listed_in: the file that named them, for messages.
    Returns: the JSON of `tandem candidates`.
    Raises: DataError: for users the bundle does not have, and an output that cannot be written. ConfigError: when out
        holds candidates of another run. BundleError: for a bundle that is damaged.
    """
    started = time.perf_counter()
    bundle = Registry(Home(home)).open(version)
    file = bundle.path(USERS_FILE)
    users = (
        SelectedUsers.everybody(file) if user_ids is None else SelectedUsers.named(file, user_ids, listed_in=listed_in)
    )
    if not users.n_users:
        raise DataError("the bundle knows no users; there is nobody to find candidates for", file=str(file))
    job = CandidateJob(
        version=bundle.version,
        k=config.k,
        ranked=config.ranked,
        n_users=users.n_users,
        users_sha256=users.sha256,
        users_per_part=config.users_per_part,
    )
    folder = CandidateFolder(out, config.format)
    reports: list[PartReport] = []
    with folder.reserved():
        promised = folder.promised(job)
        sizes = folder.written(job, promised)
        missing = set(range(job.n_parts)) - sizes.keys()
        if promised is not None and missing:
            told = f"{len(missing)} of {job.n_parts} parts of the finished table are gone or not what was written"
            print(f"{told}; writing them anew", file=sys.stderr, flush=True)
        task = Task(_everywhere(home), _everywhere(out), config.format, job)
        parts = users.parts(job.users_per_part, missing)
        on_ray = bool(config.workers and missing)
        for report in _write_on_ray(task, parts, config.workers) if on_ray else _write_here(task, parts):
            reports.append(report)
            _tell(report, len(reports), len(missing), time.perf_counter() - started)
        sizes |= {report.number: report.size for report in reports}
        if promised is None or missing:
            folder.finish(job, sizes)
    seconds = time.perf_counter() - started
    n_answered = sum(report.n_users for report in reports)
    busy_s = sum(report.processor_s for report in reports)
    return {
        "version": bundle.version,
        "out": folder.location,
        "format": config.format,
        "ranked": config.ranked,
        "k": config.k,
        "n_users": users.n_users,
        "n_rows": sum(size.n_rows for size in sizes.values()),
        "n_parts": job.n_parts,
        "n_parts_written": len(reports),
        "workers": config.workers,
        "seconds": round(seconds, 2),
        "users_per_s": round(n_answered / seconds, 1),
        "users_per_s_per_core": round(n_answered / busy_s, 1) if reports else None,
        "peak_mib": {
            "driver": round(peak_mib(), 1),
            "worker": round(max((report.peak_mib for report in reports), default=0.0), 1),
        },
    }


def write_part(task: Task, part: Part) -> PartReport:
    """Answers the users of one part, and writes it."""
    writer = _writer(task.home, task.job.version, task.job.k, task.job.ranked)
    started, processor_started = time.perf_counter(), time.process_time()
    number, places, users = part
    size = CandidateFolder(task.out, task.kind).write_part(task.job, number, writer.rows(users, places))
    seconds, processor_s = time.perf_counter() - started, time.process_time() - processor_started
    return PartReport(number, size, len(places), seconds, processor_s, peak_mib())


@lru_cache(maxsize=1)
def _writer(home: str, version: str, k: int, ranked: bool) -> CandidateWriter:
    """Loaded once by each process, which writes many parts."""
    return CandidateWriter(load_without_users(Registry(Home(home)).open(version)), k, ranked)


def _write_here(task: Task, parts: Iterable[Part]) -> Iterator[PartReport]:
    for part in parts:
        yield write_part(task, part)


def _write_on_ray(task: Task, parts: Iterable[Part], workers: int) -> Iterator[PartReport]:
    from rec.batch.ray_parts import write_parts
    from rec.on_ray.cluster import ensure_ray

    ensure_ray(workers)
    yield from write_parts(task, parts, workers)


def _everywhere(location: str) -> str:
    """A place as it is said to other processes: a URL stays, with its credentials; a path becomes absolute."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def _tell(report: PartReport, n_done: int, n_missing: int, seconds: float) -> None:
    told = f"part {report.number}: {report.n_users:,} users in {report.seconds:.1f} s"
    print(f"{told}; {n_done} of {n_missing} parts after {seconds:.0f} s", file=sys.stderr, flush=True)
