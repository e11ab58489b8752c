"""A table holds what the recommender answers each user, however it is divided, and whenever the run was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from safetensors.numpy import load_file

from rec.batch import run, write_candidates
from rec.candidate_parts import SCHEMA
from rec.candidate_tables import MANIFEST_FILE, read_candidates
from rec.config import BatchConfig
from rec.errors import BundleError, ConfigError, DataError
from rec.retrieval.arrays import write_arrays

HERE = BatchConfig(workers=0, k=10)


def _rows(location: str | Path) -> pa.Table:
    return pa.concat_tables(read_candidates(str(location)))


def _lists(table: pa.Table) -> dict[str, list[tuple[str, float]]]:
    lists: dict[str, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        listed = lists.setdefault(row["user_id"], [])
        assert row["rank"] == len(listed)
        listed.append((row["item_id"], row["score"]))
    return lists


def _same(found: dict[str, list[tuple[str, float]]], expected: dict[str, list[tuple[str, float]]]) -> None:
    assert list(found) == list(expected)
    for user_id, listed in expected.items():
        assert [item for item, _ in found[user_id]] == [item for item, _ in listed], user_id
        np.testing.assert_allclose(
            [score for _, score in found[user_id]], [score for _, score in listed], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("users_per_part", [1, 7, 50, 1000])
def test_it_holds_what_retrieval_finds_for_each_user(home: str, asked: Any, tmp_path: Path, users_per_part: int):
    config = HERE.model_copy(update={"users_per_part": users_per_part})
    answer = write_candidates(config, str(tmp_path), home=home)
    table = _rows(tmp_path)
    assert table.schema.equals(SCHEMA)
    assert set(table["source"].to_pylist()) == {"two_tower"}
    _same(_lists(table), asked.found(10))
    assert answer["n_parts"] == answer["n_parts_written"] == -(-50 // users_per_part)
    assert (answer["n_users"], answer["n_rows"]) == (50, len(table))


def test_ranked_it_holds_what_both_stages_choose(home: str, asked: Any, tmp_path: Path):
    write_candidates(HERE.model_copy(update={"ranked": True, "users_per_part": 20}), str(tmp_path), home=home)
    found = _lists(_rows(tmp_path))
    assert {user_id: [item for item, _ in listed] for user_id, listed in found.items()} == asked.ranked(10)
    for listed in found.values():
        assert sorted((score for _, score in listed), reverse=True) == [score for _, score in listed]


def test_a_candidate_of_several_sources_bears_the_name_of_the_first():
    from rec.batch.scoring import _sources
    from rec.state import Candidates, Provenance

    items, found_by = np.array([[4, 2, 1], [3, -1, -1]], np.int32), np.array([[1, 6, 4], [5, 0, 0]], np.uint16)
    found = Candidates(items, np.zeros((2, 3)), "blend", Provenance(("two_tower", "ease", "fresh"), found_by))
    user, rank = np.nonzero(items >= 0)
    expected = [found.sources_of(row, column)[0] for row, column in zip(user, rank, strict=True)]
    assert _sources(found, user, rank).to_pylist() == expected == ["two_tower", "ease", "fresh", "two_tower"]


def test_lists_end_where_the_catalogue_does(home: str, asked: Any, tmp_path: Path):
    write_candidates(HERE.model_copy(update={"k": 500}), str(tmp_path), home=home)
    expected = asked.found(500)
    assert min(map(len, expected.values())) < 120
    _same(_lists(_rows(tmp_path)), expected)


def test_any_number_of_ray_tasks_writes_the_same(home: str, ray_session: None, tmp_path: Path):
    tables = []
    for workers in (0, 1, 2):
        config = BatchConfig(workers=workers, k=10, users_per_part=8)
        answer = write_candidates(config, str(tmp_path / str(workers)), home=home)
        assert answer["n_parts_written"] == 7 and answer["peak_mib"]["worker"] > 0
        tables.append(_rows(tmp_path / str(workers)))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_some_users_in_the_order_of_the_bundle(home: str, asked: Any, tmp_path: Path):
    everybody = asked.found(10)
    chosen = list(everybody)[::-3]
    config = HERE.model_copy(update={"users_per_part": 4})
    write_candidates(config, str(tmp_path), home=home, user_ids=[*chosen, chosen[0]])
    _same(
        _lists(_rows(tmp_path)), {user_id: everybody[user_id] for user_id in sorted(chosen, key=list(everybody).index)}
    )


def test_a_delta_table_changes_from_one_run_to_the_next_at_once(home: str, asked: Any, tmp_path: Path):
    config = HERE.model_copy(update={"format": "delta", "users_per_part": 20})
    write_candidates(config, str(tmp_path), home=home)
    first = DeltaTable(str(tmp_path)).to_pyarrow_table()
    assert first.column_names == SCHEMA.names
    _same(_lists(first), asked.found(10))
    assert write_candidates(config, str(tmp_path), home=home)["n_parts_written"] == 0
    assert DeltaTable(str(tmp_path)).version() == 0

    write_candidates(config.model_copy(update={"k": 3}), str(tmp_path), home=home)
    _same(_lists(_rows(tmp_path)), asked.found(3))
    job = read_candidates(str(tmp_path)).job
    assert job is not None and job.k == 3
    assert len(DeltaTable(str(tmp_path), version=0).to_pyarrow_table()) == len(first)


class Killed(BaseException):
    pass


def _dies_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    write: Callable[..., Any] = run.write_part
    done = []

    def deadly(*arguments: Any) -> Any:
        if len(done) == parts:
            raise Killed
        done.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(run, "write_part", deadly)


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_what_was_cut_off_is_no_table_and_goes_on_with_what_is_missing(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    config = BatchConfig.model_validate({"workers": 0, "k": 10, "users_per_part": 8, "format": kind})
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    write_candidates(config, whole, home=home)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _dies_after(patch, 3)
        write_candidates(config, cut, home=home)
    with pytest.raises(DataError, match="no finished table"):
        read_candidates(cut)
    written = {path.name: path.stat().st_mtime_ns for path in Path(cut).glob("*.parquet")}
    assert len(written) == 3
    (Path(cut) / ".part-of-a-dead-writer").write_bytes(b"half")

    assert write_candidates(config, cut, home=home)["n_parts_written"] == 4
    assert {name: (Path(cut) / name).stat().st_mtime_ns for name in written} == written
    assert _rows(cut).equals(_rows(whole))
    assert not list(Path(cut).glob(".part-*"))
    again = write_candidates(config, cut, home=home)
    assert again["n_parts_written"] == 0 and again["n_rows"] == len(_rows(whole))


def test_what_a_finished_table_lost_is_written_anew_and_how_many_is_said(
    home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = HERE.model_copy(update={"users_per_part": 20})
    first = write_candidates(config, str(tmp_path), home=home)
    whole, (cut, exchanged, left) = _rows(tmp_path), sorted(tmp_path.glob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:1000])
    exchanged.write_bytes(left.read_bytes())
    capsys.readouterr()
    again = write_candidates(config, str(tmp_path), home=home)
    assert "2 of 3 parts of the finished table are gone or not what was written" in capsys.readouterr().err
    assert (again["n_parts_written"], again["n_rows"]) == (2, first["n_rows"])
    assert _rows(tmp_path).equals(whole)


def test_a_folder_takes_the_candidates_of_one_run(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = HERE.model_copy(update={"users_per_part": 8})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _dies_after(patch, 1)
        write_candidates(config, str(tmp_path), home=home)
    other = config.model_copy(update={"k": 11})
    with pytest.raises(ConfigError, match=r"another run: k 10 \(now 11\)"):
        write_candidates(other, str(tmp_path), home=home)
    write_candidates(config, str(tmp_path), home=home)
    with pytest.raises(ConfigError, match=r"another run: k 10 \(now 11\)"):
        write_candidates(other, str(tmp_path), home=home)
    with pytest.raises(ConfigError, match="folder of Parquet files"):
        write_candidates(config.model_copy(update={"format": "delta"}), str(tmp_path), home=home)
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other" / "a.parquet")
    with pytest.raises(ConfigError, match="other Parquet files"):
        write_candidates(config, str(tmp_path / "other"), home=home)


def test_who_writes_keeps_others_out(home: str, tmp_path: Path):
    from rec.candidate_tables import CandidateFolder

    with CandidateFolder(str(tmp_path), "parquet").reserved(), pytest.raises(DataError, match="another run is writing"):
        write_candidates(HERE, str(tmp_path), home=home)


def test_what_cannot_be_done_is_said_before_anything_is_written(home: str, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="user 'nobody' is not in the bundle, nor are 1 others of 3") as unknown:
        write_candidates(HERE, str(out), home=home, user_ids=["user-1", "nobody", "no one"], listed_in="users.txt")
    assert (unknown.value.file, unknown.value.row) == ("users.txt", 2)
    with pytest.raises(DataError, match="names no user"):
        write_candidates(HERE, str(out), home=home, user_ids=[])
    with pytest.raises(BundleError, match="no model was promoted"):
        write_candidates(HERE, str(out), home=str(tmp_path / "empty"))
    assert not out.exists()
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(DataError, match="must be a folder that can be written"):
        write_candidates(HERE, str(file), home=home)


def test_a_disk_that_refuses_is_named(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rec.storage.os.replace", full)
    with pytest.raises(DataError, match="No space left on device") as refused:
        write_candidates(HERE, str(tmp_path), home=home)
    assert str(refused.value.file).startswith(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_damaged_bundle_or_manifest_is_named(home: str, tmp_path: Path):
    import shutil

    copy, out = tmp_path / "home", tmp_path / "out"
    shutil.copytree(home, copy)
    write_candidates(HERE, str(out), home=str(copy))
    (out / MANIFEST_FILE).write_text("{")
    with pytest.raises(DataError, match="damaged") as manifest:
        read_candidates(str(out))
    assert manifest.value.file == str(out / MANIFEST_FILE)
    file = next(copy.glob("models/*/users.parquet"))
    file.write_bytes(b"no users")
    with pytest.raises(BundleError, match="damaged") as bundle:
        write_candidates(HERE, str(tmp_path / "new"), home=str(copy))
    assert bundle.value.file == str(file) and not (tmp_path / "new").exists()


# Waits to be killed when five parts are done and two are being written.
WRITES = """
import sys, time
from rec.batch import run
from rec.config import BatchConfig
run._tell = lambda report, n_done, *_: time.sleep(3600 if n_done == 5 else 0)
run.write_candidates(BatchConfig(workers=2, k=10, users_per_part=1), sys.argv[2], home=sys.argv[1])
"""


@pytest.mark.slow
def test_a_driver_that_was_killed_is_gone_on_with(home: str, tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = BatchConfig(workers=0, k=10, users_per_part=1)
    write_candidates(config, str(whole), home=home)

    def begun() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITES, home, str(cut)]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    process = begun()
    deadline = time.monotonic() + 250
    while len(list(cut.glob("*.parquet"))) < 5 and time.monotonic() < deadline:
        if process.poll() is not None:
            # Ray gives up where it has not started within 30 s, as on a busy machine.
            assert not list(cut.glob("*.parquet")), "it ended before it was killed"
            process = begun()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {path.name: path.stat().st_mtime_ns for path in cut.glob("*.parquet")}
    assert 5 <= len(written) <= 7
    with pytest.raises(DataError, match="no finished table"):
        read_candidates(str(cut))

    # Tasks of the dead driver's Ray may still finish the two parts they were at.
    assert 50 - 7 <= write_candidates(config, str(cut), home=home)["n_parts_written"] <= 50 - len(written)
    assert {name: (cut / name).stat().st_mtime_ns for name in written} == written
    assert _rows(cut).equals(_rows(whole))


# Items in the row of each user in the counted sources.
LIKED = 1000

MEASURED = """
import json, sys
from rec.batch import write_candidates
from rec.config import BatchConfig
print(json.dumps(write_candidates(BatchConfig(workers=0, k=10, users_per_part=1000), sys.argv[2], home=sys.argv[1])))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_users(counted_home: str, tmp_path: Path):
    """Four times as many users, whose rows and likes would each take hundreds of MiB, take hardly more memory."""
    peaks = {}
    for n_users in (5_000, 20_000):
        large = _home_with_users(counted_home, tmp_path / str(n_users), n_users)
        command = [sys.executable, "-c", MEASURED, large, str(tmp_path / f"out-{n_users}")]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        answer = json.loads(done.stdout)
        assert answer["n_users"] == n_users
        peaks[n_users] = answer["peak_mib"]["driver"]
    assert peaks[20_000] - peaks[5_000] < 25, peaks


def _home_with_users(home: str, folder: Path, n_users: int) -> str:
    """The bundle with its users many times over, each of whom has seen, liked and been told much."""
    import shutil

    from rec.bundle import BundleDetails
    from rec.registry import Registry
    from rec.storage import Home

    bundle = Registry(Home(home)).open()

    def fill(draft: Path) -> None:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path(name), draft / name)
        users = pq.read_table(draft / "users.parquet").to_pandas()
        users["seen"] = [sorted(set(seen)) * 8 for seen in users["seen"]]
        many = users.loc[np.arange(n_users) % len(users)].assign(user_id=[f"u{row:08d}" for row in range(n_users)])
        many.to_parquet(draft / "users.parquet", index=False)
        for source in ("ease", "swing"):
            arrays = load_file(draft / f"{source}.safetensors")
            arrays["items"] = np.tile(arrays["items"][:1], n_users * LIKED)
            arrays["indptr"] = np.arange(n_users + 1, dtype=np.int64) * LIKED
            write_arrays(draft, source, arrays)

    details = BundleDetails.model_validate(bundle.manifest.model_dump(include=set(BundleDetails.model_fields)))
    registry = Registry(Home(folder))
    registry.promote(registry.publish(fill, details))
    return str(folder)
