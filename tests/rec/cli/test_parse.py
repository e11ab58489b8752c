"""Options come from the file of --config and from flags, which override it, and are checked as a whole."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from rec.cli import of_the_system, parse
from rec.errors import ConfigError, DataError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "options.yaml"


def test_a_flag_gives_what_the_command_requires_and_the_file_lacks(file: Path) -> None:
    file.write_text("data: {name: csv, path: a.csv}\nformat: recbole\n", encoding="utf-8")
    options = parse("data import", ["--config", str(file), "--out", "x", "--path", "b.csv"]).model_dump()
    assert (options["out"], options["format"], options["data"]["path"]) == ("x", "recbole", "b.csv")
    with pytest.raises(ConfigError, match="--out"):
        parse("data import", ["--config", str(file)])


def test_a_file_gives_what_the_command_requires_and_a_flag_overrides_it(file: Path) -> None:
    file.write_text("out: y\n", encoding="utf-8")
    assert parse("data import", ["--config", str(file)]).model_dump()["out"] == "y"
    assert parse("data import", ["--config", str(file), "--out", "z"]).model_dump()["out"] == "z"


@pytest.mark.parametrize(
    ("text", "field"), [("dta: 1\n", "dta"), ("out: 3\n", "out"), ("data: {nam: x}\n", "data.nam")]
)
def test_what_is_wrong_in_a_file_is_named(file: Path, text: str, field: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        parse("data import", ["--config", str(file), "--out", "x"])
    assert (refused.value.field, refused.value.file) == (field, str(file))


def test_only_what_is_about_a_path_says_to_check_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "nothing").read_bytes()
    found = of_the_system(missing.value)
    assert isinstance(found, DataError) and found.file == str(tmp_path / "nothing")
    assert found.message == "No such file or directory; check the path"

    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError) as refused:
            socket.create_connection(unused.getsockname())
    found = of_the_system(refused.value)
    assert not isinstance(found, DataError) and found.file is None
    assert found.message == "ConnectionRefusedError: Connection refused"
