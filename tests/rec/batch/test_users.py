"""Users are read in runs of one size, in the order of their table, whatever its row groups are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec.batch.users import SelectedUsers
from rec.errors import DataError

IDS = [f"u{number}" for number in range(23)]


@pytest.fixture(params=[1, 5, 23, 100])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user_id": IDS, "number": range(23)}), path, row_group_size=request.param)
    return path


@pytest.mark.parametrize("size", [1, 4, 5, 23, 50])
@pytest.mark.parametrize("chosen", [None, [22, 0, 7, 8, 9, 7]])
def test_parts_are_runs_of_the_chosen_rows(file: Path, size: int, chosen: list[int] | None):
    if chosen is None:
        users, expected = SelectedUsers.everybody(file), list(range(23))
    else:
        users, expected = SelectedUsers.named(file, [IDS[row] for row in chosen]), sorted(set(chosen))
    assert users.n_users == len(expected)
    n_parts = -(-len(expected) // size)
    parts = list(users.parts(size, range(n_parts)))
    assert [number for number, _, _ in parts] == list(range(n_parts))
    for number, places, rows in parts:
        assert places.tolist() == expected[number * size : (number + 1) * size]
        assert rows["number"].to_pylist() == places.tolist()
        assert rows["user_id"].to_pylist() == [IDS[row] for row in places]
    odd = [(number, rows) for number, _, rows in users.parts(size, range(1, n_parts, 2))]
    assert [number for number, _ in odd] == list(range(1, n_parts, 2))
    assert all(rows.equals(parts[number][2]) for number, rows in odd)


def test_the_same_users_in_any_order_are_the_same_run(file: Path):
    once, again = SelectedUsers.named(file, ["u3", "u9"]), SelectedUsers.named(file, ["u9", "u3", "u9"])
    assert once.sha256 == again.sha256 is not None
    assert SelectedUsers.named(file, ["u3"]).sha256 != once.sha256
    assert SelectedUsers.everybody(file).sha256 is None


def test_a_user_that_is_not_there_is_named(file: Path):
    with pytest.raises(DataError, match="user 'x' is not in the bundle"):
        SelectedUsers.named(file, ["u1", "x"])
