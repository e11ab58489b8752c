"""What was lost, cut off or exchanged of a table is neither read nor taken for written."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from rec.candidate_parts import SCHEMA, CandidateJob, PartSize
from rec.candidate_tables import MANIFEST_FILE, CandidateFolder, read_candidates
from rec.config import TableFormat
from rec.errors import ConfigError, DataError

JOB = CandidateJob(version="v", k=2, ranked=False, n_users=3, users_sha256=None, users_per_part=1)
KINDS: tuple[TableFormat, ...] = ("parquet", "delta")


def _rows(user: int) -> pa.Table:
    return pa.table(
        [[f"user-{user}"] * 2, pa.array([0, 1], pa.int32()), ["a", "b"], [0.5, 0.25], ["ease"] * 2], schema=SCHEMA
    )


def _mended(folder: Path, kind: TableFormat, job: CandidateJob = JOB) -> list[int]:
    """Does what a run does; returns the parts it wrote."""
    table = CandidateFolder(str(folder), kind)
    promised = table.promised(job)
    sizes = table.written(job, promised)
    missing = [number for number in range(job.n_parts) if number not in sizes]
    written: dict[int, PartSize] = {number: table.write_part(job, number, _rows(number)) for number in missing}
    table.finish(job, sizes | written)
    return missing


def _users(folder: Path) -> list[str]:
    return pa.concat_tables(read_candidates(str(folder)))["user_id"].unique().to_pylist()


def _delete(part: Path) -> None:
    part.unlink()


def _cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-1])


def _exchange(part: Path) -> None:
    """Puts the next part there, which is of the same size."""
    shutil.copy(part.with_name(JOB.part(2)), part)
    assert part.stat().st_size == part.with_name(JOB.part(0)).stat().st_size


def _of_another_job(part: Path) -> None:
    other = part.parent.with_name("other")
    _mended(other, "parquet", JOB.model_copy(update={"version": "w"}))
    shutil.copy(sorted(other.glob("*.parquet"))[1], part)
    shutil.rmtree(other)


def _of_nobody(part: Path) -> None:
    pq.write_table(_rows(1), part)


def _fewer_rows(part: Path) -> None:
    table = pq.ParquetFile(part)
    pq.write_table(table.read().slice(0, 1).replace_schema_metadata(table.schema_arrow.metadata), part)


DAMAGES = (_delete, _cut, _exchange, _of_another_job, _of_nobody, _fewer_rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_finished_table_is_read_whole_or_not_at_all_and_is_mended(
    tmp_path: Path, kind: TableFormat, damage: Callable[[Path], None]
):
    folder = tmp_path / "table"
    assert _mended(folder, kind) == [0, 1, 2] and _mended(folder, kind) == []
    part = folder / JOB.part(1)
    before = part.read_bytes()
    damage(part)
    with pytest.raises(DataError, match="run `tandem candidates` again") as refused:
        _users(folder)
    assert refused.value.file == str(part)
    assert _mended(folder, kind) == [1]
    assert part.read_bytes() == before and _users(folder) == ["user-0", "user-1", "user-2"]
    assert _mended(folder, kind) == []


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not _fewer_rows])
def test_of_an_unfinished_table_only_its_own_parts_are_kept(tmp_path: Path, damage: Callable[[Path], None]):
    folder = tmp_path / "table"
    _mended(folder, "parquet")
    (folder / MANIFEST_FILE).unlink()
    damage(folder / JOB.part(1))
    assert _mended(folder, "parquet") == [1]
    assert _users(folder) == ["user-0", "user-1", "user-2"]


def test_bytes_that_changed_are_not_read(tmp_path: Path):
    _mended(tmp_path, "parquet")
    part = tmp_path / JOB.part(1)
    content = bytearray(part.read_bytes())
    # The last byte of the dictionary of the users' ids.
    content[pq.ParquetFile(part).metadata.row_group(0).column(0).data_page_offset - 1] ^= 1
    part.write_bytes(content)
    with pytest.raises(DataError, match=r"not readable.*delete it and run `tandem candidates` again") as refused:
        _users(tmp_path)
    assert refused.value.file == str(part)


def test_a_part_of_another_size_is_what_its_table_says_from_then_on(tmp_path: Path):
    """As where a later release of the Parquet writer wrote it again."""
    for kind in KINDS:
        folder = tmp_path / kind
        _mended(folder, kind)
        table = CandidateFolder(str(folder), kind)
        promised = table.promised(JOB)
        _delete(folder / JOB.part(1))
        size = table.write_part(JOB, 1, pa.concat_tables([_rows(1), _rows(1)]))
        table.finish(JOB, {1: size, **{number: table.written(JOB, promised)[number] for number in (0, 2)}})
        assert len(pa.concat_tables(read_candidates(str(folder)))) == 8
    assert len(DeltaTable(str(tmp_path / "delta")).to_pyarrow_table()) == 8
    assert len(DeltaTable(str(tmp_path / "delta")).file_uris()) == 3


def test_a_delta_table_that_others_rewrote_is_read_and_is_no_finished_run(tmp_path: Path):
    _mended(tmp_path, "delta")
    DeltaTable(str(tmp_path)).optimize.compact()
    found = read_candidates(str(tmp_path))
    assert found.job is None and sorted(_users(tmp_path)) == ["user-0", "user-1", "user-2"]
    # The parts are still there: they are made the table again, of which they were dropped.
    assert _mended(tmp_path, "delta") == [] and read_candidates(str(tmp_path)).job == JOB


def test_a_manifest_that_names_other_parts_is_refused(tmp_path: Path):
    _mended(tmp_path, "parquet")
    manifest = tmp_path / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace(JOB.part(1), JOB.part(7)))
    with pytest.raises(DataError, match="names other parts") as refused:
        read_candidates(str(tmp_path))
    assert refused.value.file == str(manifest)
    manifest.unlink()
    assert _mended(tmp_path, "parquet") == [] and len(_users(tmp_path)) == 3


def test_a_broken_file_of_others_is_left_alone(tmp_path: Path):
    (tmp_path / "theirs.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="other Parquet files; name another folder"):
        _mended(tmp_path, "parquet")
