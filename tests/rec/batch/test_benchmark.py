"""The benchmark's bundle of many users loads, and its plain loop answers what `tandem candidates` writes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.speed.candidates import loop, with_users
from rec.batch import write_candidates
from rec.candidate_tables import read_candidates
from rec.config import BatchConfig


def test_the_plain_loop_does_the_same_work(home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    many = with_users(home, tmp_path / "many", 120)
    loop(many, str(tmp_path / "loop.parquet"), "10", "0")
    assert float(capsys.readouterr().out) > 0
    write_candidates(BatchConfig(workers=0, k=10), str(tmp_path / "ours"), home=many)
    columns = ["user_id", "rank", "item_id"]
    ours = [row for part in read_candidates(str(tmp_path / "ours")) for row in part.select(columns).to_pylist()]
    assert pq.read_table(tmp_path / "loop.parquet", columns=columns).to_pylist() == ours
    assert len({row["user_id"] for row in ours}) == 120
