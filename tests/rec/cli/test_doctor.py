"""`tandem doctor` finds what stands in the way, and nothing that does not."""

import json
import os
import shutil
import socket
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from rec.cli import main
from rec.cli.doctor import LONGEST_TEMP, PORTS, SOCKET, Check, diagnose


def found(home: Path | str = ".") -> dict[str, list[Check]]:
    """The checks by name."""
    checks: dict[str, list[Check]] = {}
    for check in diagnose(str(home)):
        checks.setdefault(check.name, []).append(check)
    return checks


def test_every_check_of_this_machine_comes_to_an_end_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["doctor", "--home", str(tmp_path), "--json"])
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["ok"] is (status == 0)
    checks = answer["checks"]
    # A check that fails itself is a problem named after the error.
    assert not [check for check in checks if "Error:" in check["found"]]
    assert all((check["todo"] is None) == (check["status"] == "ok") for check in checks)
    names = {check["name"] for check in checks}
    assert {
        "python",
        "torch",
        "ray",
        "ray sessions",
        "memory",
        "disk",
        "gpu",
        *(f"port {port}" for port in PORTS),
    } <= names
    by_name = {check["name"]: check for check in checks}
    assert by_name["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert all(by_name[package]["status"] == "ok" for package in ("torch", "ray", "numpy", "lightgbm"))


def test_long_paths_of_sessions_are_a_problem_as_ray_would_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private.utils import validate_socket_filepath

    (check,) = found()["ray sessions"]
    assert check == Check("ray sessions", "ok", f"under {get_default_ray_temp_dir()}")
    for length, takes in ((LONGEST_TEMP, True), (LONGEST_TEMP + 1, False)):
        monkeypatch.setenv("RAY_TMPDIR", "/" + "x" * (length - len("/ray") - 1))
        with nullcontext() if takes else pytest.raises(OSError, match="AF_UNIX path length"):
            validate_socket_filepath(get_default_ray_temp_dir() + SOCKET)
        assert [check.status for check in found()["ray sessions"]] == ["ok", "problem"][: 2 - takes]


def test_shared_memory_is_looked_at_where_ray_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ("shared memory" in found()) is (sys.platform == "linux")
    monkeypatch.setattr(sys, "platform", "darwin")
    asked: list[str] = []
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(str(path)) or usage(path))
    checks = found()
    assert "memory" in checks and "shared memory" not in checks and "/dev/shm" not in asked


def test_a_port_that_is_in_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setitem(PORTS, port, "a test")
        (free,) = found()[f"port {port}"]
        taken.listen()
        (used,) = found()[f"port {port}"]
    assert (free.status, used.status) == ("ok", "warning") and used.found == "in use (a test)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert found(tmp_path / "home")["home"][0].status == "problem"


def test_a_folder_of_data_that_is_none_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_DATA", str(tmp_path / "nowhere"))
    assert found()["data"][0].status == "problem"
    (tmp_path / "ml-1m").mkdir()
    monkeypatch.setenv("TANDEM_DATA", str(tmp_path))
    assert found()["data"][0] == Check("data", "ok", f"{tmp_path}: ml-1m")
