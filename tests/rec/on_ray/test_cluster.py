"""A Ray that we start asks for a token, and nobody else can read it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rec.errors import TandemError
from rec.on_ray.cluster import TOKEN_FILE, TOKEN_VARIABLES, ensure_ray, keep_token_private

JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.cluster_resources())"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", *TOKEN_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def test_a_token_is_made_for_this_user_alone_and_kept(tmp_path: Path):
    previous = os.umask(0)
    try:
        keep_token_private(tmp_path)
    finally:
        os.umask(previous)
    file = tmp_path / TOKEN_FILE
    token = file.read_text()
    assert len(token) == 64 and int(token, 16)
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    keep_token_private(tmp_path)
    assert file.read_text() == token


def test_a_token_that_all_could_read_is_closed(tmp_path: Path):
    file = tmp_path / TOKEN_FILE
    file.parent.mkdir()
    file.write_text("a token of before")
    file.chmod(0o644)
    keep_token_private(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == "a token of before"


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_TOKEN", "t"), ("RAY_AUTH_TOKEN_PATH", "/somewhere"), ("RAY_AUTH_MODE", "disabled")]
)
def test_a_token_that_is_given_and_a_mode_without_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    keep_token_private(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "told"), [(None, "Ray did not start.*Try again"), ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1:6379")]
)
def test_a_ray_that_does_not_start_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, told: str
):
    import ray

    def fails(**_options: object) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(TandemError, match=told) as caught:
        ensure_ray(1)
    assert "timed out during startup" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_whoever_has_another_token_cannot_join(ray_session: None):
    import ray

    address = ray.get_runtime_context().gcs_address
    wrong = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run([sys.executable, "-c", JOIN, address], env=wrong, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "uthenticat" in done.stderr, done.stderr
