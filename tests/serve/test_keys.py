"""API keys: made once, kept as hashes, and none opens more than it should."""

import hashlib
import json
from pathlib import Path

import pytest

from rec.errors import ConfigError, DataError
from rec.storage import Home
from serve.keys import FOLDER, KeyRing, KeyStore, StoredKey, bearer


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(Home(tmp_path))


def ring(store: KeyStore) -> KeyRing:
    return KeyRing(store.read().keys)


def test_a_key_opens_what_its_roles_say(store: KeyStore):
    for roles, opens in (
        (("recommend",), {"recommend"}),
        (("feedback",), {"feedback"}),
        (("recommend", "feedback"), {"recommend", "feedback"}),
        (("admin",), {"recommend", "feedback", "admin"}),
    ):
        key, text = store.create("a", roles, now_ms=1)
        found = ring(store).find(text)
        assert found == key
        assert {role for role in ("recommend", "feedback", "admin") if found.may(role)} == opens


def test_no_file_holds_what_opens_anything(store: KeyStore, tmp_path: Path):
    key, text = store.create("web", ("recommend",), now_ms=5)
    secret = text.removeprefix(f"tandem_{key.id}_")
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.encode() not in content and key.id.encode() in content
    (file,) = (tmp_path / FOLDER).iterdir()
    assert json.loads(file.read_text())["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert len(secret) == 43  # 32 bytes in base64


def test_what_is_no_key_opens_nothing(store: KeyStore):
    key, text = store.create("a", ("admin",), now_ms=1)
    other, _ = store.create("b", ("admin",), now_ms=2)
    secret = text.removeprefix(f"tandem_{key.id}_")
    wrong = "A" if text[-1] != "A" else "B"
    for attempt in (
        "", "tandem", text[:-1], text[:-1] + wrong, text + "A", text.upper(), f" {text}", f"{text}\n", secret, key.id,
        key.sha256, f"tandem_{other.id}_{secret}", f"tandem_{key.id}_{key.sha256[:43]}", f"tandem_00000000_{secret}",
        f"tandem_{key.id}_" + "ä" * 43,
    ):  # fmt: skip
        assert ring(store).find(attempt) is None, attempt
    assert ring(store).find(text) == key


def test_a_revoked_key_opens_nothing_and_the_others_go_on(store: KeyStore):
    one, first = store.create("one", ("admin",), now_ms=1)
    _, second = store.create("two", ("admin",), now_ms=2)
    assert store.revoke(one.id, now_ms=7).revoked_ms == 7
    assert store.revoke(one.id, now_ms=9).revoked_ms == 7
    assert ring(store).find(first) is None and ring(store).find(second) is not None
    assert [key.name for key in store.read().keys] == ["one", "two"]
    with pytest.raises(ConfigError, match="no key has the id"):
        store.revoke("00000000", now_ms=1)


def test_a_damaged_file_is_counted_and_harms_no_other(store: KeyStore, tmp_path: Path):
    _, text = store.create("one", ("feedback",), now_ms=1)
    damaged, _ = store.create("two", ("feedback",), now_ms=1)
    (tmp_path / FOLDER / f"{damaged.id}.json").write_text("{")
    assert store.read().n_damaged == 1
    assert ring(store).find(text) is not None


@pytest.mark.parametrize(("name", "roles"), [("", ("admin",)), ("a", ()), ("a", ("root",)), ("a" * 101, ("admin",))])
def test_keys_without_name_or_roles_are_refused(store: KeyStore, name: str, roles: tuple):
    with pytest.raises(ConfigError):
        store.create(name, roles, now_ms=1)
    assert store.read().keys == []


def test_keys_differ(store: KeyStore):
    made: list[tuple[StoredKey, str]] = [store.create("same", ("admin",), now_ms=1) for _ in range(20)]
    assert len({text for _, text in made}) == len({key.id for key, _ in made}) == 20


@pytest.mark.parametrize(
    ("header", "key"), [(None, ""), ("Bearer k", "k"), ("bearer k", "k"), ("Bearer  k ", "k"), ("Bearer", "")]
)
def test_the_key_of_a_header(header: str | None, key: str):
    assert bearer(header) == key


@pytest.mark.parametrize("header", ["Basic dTpw", "k", ""])
def test_another_scheme_is_refused(header: str):
    with pytest.raises(DataError, match="Bearer"):
        bearer(header)
