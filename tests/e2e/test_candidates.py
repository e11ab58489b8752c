"""`tandem candidates` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

import rec
from rec.candidate_tables import read_candidates


def test_candidates_of_everybody_and_of_a_list(
    tandem: Any, trained: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    home, out = trained[0], str(tmp_path / "out")
    options = ("--home", home, "--k", "5", "--workers", "0", "--json")
    done = tandem("candidates", "--out", out, "--users-per-part", "30", *options)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert list(answer) == (
        "command ok version out format ranked k n_users n_rows n_parts n_parts_written workers seconds users_per_s "
        "users_per_s_per_core peak_mib".split()
    )
    assert (answer["version"], answer["n_rows"]) == (trained[1]["version"], 5 * answer["n_users"])
    everybody = pa.concat_tables(read_candidates(out))
    assert len(everybody) == answer["n_rows"]

    listed = tmp_path / "users.txt"
    listed.write_text("user-3\nuser-1\n")
    done = tandem("candidates", "--out", str(tmp_path / "two"), "--users-file", str(listed), "--ranked", *options)
    assert done.returncode == 0, done.stderr
    two = pa.concat_tables(read_candidates(str(tmp_path / "two")))
    best = [item.item_id for item in rec.load(home).recommend("user-3", 5).items]
    assert [row["item_id"] for row in two.to_pylist() if row["user_id"] == "user-3"] == best

    listed.write_text("user-3\nnobody\n")
    done = tandem("candidates", "--out", str(tmp_path / "two"), "--users-file", str(listed), *options)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["row"] == 2 and "nobody" in done.stderr
    done = tandem("candidates", "--out", out, "--user-ids", "user-3", *options)
    assert done.returncode == 2 and "another run" in done.stderr
