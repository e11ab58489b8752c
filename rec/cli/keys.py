"""`tandem keys`: who may use a service."""

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field

from rec.cli.command import Answer
from rec.config import Config, HomePath


class KeysOptions(Config):
    """Where the keys are: the home that is served."""

    home: HomePath


class CreateKeyOptions(KeysOptions):
    """What the key is called in lists and logs, and what it opens.

    `recommend` opens recommendations and items, `feedback` feedback, `admin` everything, models and metrics included.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    roles: Annotated[tuple[Literal["recommend", "feedback", "admin"], ...], Field(min_length=1)] = (
        "recommend",
        "feedback",
    )


class RevokeKeyOptions(KeysOptions):
    """The id of the key, as `tandem keys list` shows it: what stands between the underscores of its text."""

    id: tyro.conf.Positional[str]


def run_create_key(options: CreateKeyOptions) -> Answer:
    """Prints and returns the new key, which is kept nowhere else."""
    key, text = _store(options.home).create(options.name, options.roles, now_ms=_now_ms())
    print(text)
    print("This is shown once: what is kept is a hash of it. Send it as `Authorization: Bearer KEY`.", file=sys.stderr)
    return {"key": text, "id": key.id, "name": key.name, "roles": list(key.roles)}


def run_list_keys(options: KeysOptions) -> Answer:
    """Prints and returns all keys, without what opens anything."""
    found = _store(options.home).read()
    for key in found.keys:
        state = "revoked" if key.revoked_ms is not None else "open"
        print(f"{key.id}  {state:<7}  {','.join(key.roles):<26}  {key.name}")
    keys: list[Mapping[str, Any]] = [key.model_dump(exclude={"sha256"}) for key in found.keys]
    return {"keys": keys, "n_damaged": found.n_damaged}


def run_revoke_key(options: RevokeKeyOptions) -> Answer:
    """Ends a key."""
    key = _store(options.home).revoke(options.id, now_ms=_now_ms())
    print(f"{key.id} ({key.name}) opens nothing any more")
    return {"id": key.id, "revoked_ms": key.revoked_ms}


def _store(home: str) -> Any:
    from rec.storage import Home
    from serve.keys import KeyStore

    return KeyStore(Home(home))


def _now_ms() -> int:
    return int(time.time() * 1000)
