import pytest

from rec.cli.models import UpdateOptions, run_update
from rec.cli.recommendations import CandidatesOptions, run_candidates
from rec.data.id_lists import read_ids
from rec.errors import DataError


@pytest.mark.parametrize(
    "content",
    ["a b\nü", "a b\nü\n", "a b\r\nü\r\n", "\ufeffa b\nü\n\n\n", "a b\nü\r\n \r\n"],
    ids=["no newline", "newline", "of Windows", "byte order mark and blank lines", "blank lines of Windows"],
)
def test_ids_are_the_lines(tmp_path, content):
    file = tmp_path / "ids.txt"
    file.write_bytes(content.encode())
    assert read_ids(file) == ["a b", "ü"]


def test_only_a_newline_ends_a_line(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("a\x0bb\u2028c\nd\n".encode())
    assert read_ids(file) == ["a\x0bb\u2028c", "d"]


@pytest.mark.parametrize(
    ("content", "message", "row"),
    [
        ("a\nü\n".encode("latin-1"), "not encoded as utf-8", 2),
        ("a\nb\n".encode("utf-16"), "not encoded as utf-8", 1),
        (b"a\n\nb\n", "a blank line between ids", 2),
        (b"\n", "the file is empty", None),
        (None, "no such file", None),
    ],
)
def test_what_is_no_list_of_ids_is_refused_by_file_and_row(tmp_path, content, message, row):
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        read_ids(file)
    assert (refused.value.file, refused.value.row) == (str(file), row)


def test_commands_refuse_them_before_they_look_for_a_model(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_bytes("a\nü\n".encode("latin-1"))
    home = str(tmp_path / "none")
    for command in (
        lambda: run_update(UpdateOptions(home=home, withdraw_file=str(file))),
        lambda: run_candidates(CandidatesOptions(home=home, out=str(tmp_path / "out"), users_file=str(file))),
    ):
        with pytest.raises(DataError, match="not encoded as utf-8") as refused:
            command()
        assert (refused.value.file, refused.value.row) == (str(file), 2)
