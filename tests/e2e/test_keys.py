"""`tandem keys` as a user runs it."""

import json
from pathlib import Path
from typing import Any

from rec.storage import Home
from serve.keys import KeyRing, KeyStore


def answer_of(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_keys_are_made_listed_and_ended(tandem: Any, tmp_path: Path):
    home = str(tmp_path / "home")
    assert answer_of(tandem("keys", "list", "--home", home, "--json"))["keys"] == []
    made = answer_of(tandem("keys", "create", "--home", home, "--name", "web", "--roles", "recommend", "--json"))
    key = KeyRing(KeyStore(Home(home)).read().keys).find(made["key"])
    assert key is not None and (key.id, key.name, key.roles) == (made["id"], "web", ("recommend",))
    plain = tandem("keys", "create", "--home", home, "--name", "backend")
    assert plain.returncode == 0 and plain.stdout.startswith("tandem_")
    listed = tandem("keys", "list", "--home", home)
    assert "web" in listed.stdout and made["key"] not in listed.stdout
    ended = answer_of(tandem("keys", "revoke", made["id"], "--home", home, "--json"))
    assert ended["revoked_ms"] > 0
    assert KeyRing(KeyStore(Home(home)).read().keys).find(made["key"]) is None
    (web, backend) = answer_of(tandem("keys", "list", "--home", home, "--json"))["keys"]
    assert web["revoked_ms"] == ended["revoked_ms"] and backend["revoked_ms"] is None
    assert set(web) == {"id", "name", "roles", "created_ms", "revoked_ms"}


def test_a_key_that_does_not_exist_and_a_role_that_is_none_are_named(tandem: Any, tmp_path: Path):
    home = str(tmp_path / "home")
    missing = tandem("keys", "revoke", "deadbeef", "--home", home)
    assert missing.returncode == 2 and "deadbeef" in missing.stderr
    wrong = tandem("keys", "create", "--home", home, "--name", "web", "--roles", "root")
    assert wrong.returncode == 2 and "root" in wrong.stderr
