"""API keys: made here, shown once, kept as hashes, checked in constant time.

    keys/<id>.json    name, roles, SHA-256 of the secret, when it was made, when revoked

A key is `tandem_<id>_<secret>`; the id finds its file, and 256 random bits are the secret. Nobody guesses these, so a
plain SHA-256 keeps them: scrypt and its like slow down the guessing of passwords, and would take 50 ms of each request.
"""

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple, final

from pydantic import Field, ValidationError

from rec.config import Config
from rec.errors import ConfigError, DataError
from rec.storage import Home

Role = Literal["recommend", "feedback", "admin"]

FOLDER: Final = "keys"
_KEY: Final = re.compile(r"tandem_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NOBODYS: Final = hashlib.sha256(secrets.token_bytes()).hexdigest()
_LOG: Final = logging.getLogger(__name__)


class StoredKey(Config):
    """A key as it is kept; times are UTC milliseconds. The role admin holds all others."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int
    revoked_ms: int | None = None

    def may(self, role: Role) -> bool:
        """Whether the key opens what takes a role."""
        return role in self.roles or "admin" in self.roles


class Listed(NamedTuple):
    """All keys there are, and how many files hold none that can be read."""

    keys: list[StoredKey]
    n_damaged: int


@final
class KeyStore:
    """The keys of a home; a file each, so that two who make some at once do not undo each other."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def create(self, name: str, roles: Sequence[Role], *, now_ms: int) -> tuple[StoredKey, str]:
        """A new key, and its text, which is kept nowhere.

        Raises: ConfigError: for a name or roles that are none.
        """
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        try:
            key = StoredKey(
                id=key_id, name=name, roles=tuple(dict.fromkeys(roles)), sha256=_digest(secret), created_ms=now_ms
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(str(first["msg"]), field=".".join(map(str, first["loc"]))) from error
        self._write(key)
        return key, f"tandem_{key_id}_{secret}"

    def revoke(self, key_id: str, *, now_ms: int) -> StoredKey:
        """Ends a key for good; its file stays, so that the last one revoked does not open the service to everybody.

        Raises: ConfigError: when there is no such key.
        """
        for key in self.read().keys:
            if key.id == key_id:
                revoked = key.model_copy(update={"revoked_ms": key.revoked_ms or now_ms})
                self._write(revoked)
                return revoked
        raise ConfigError(f"no key has the id {key_id!r}; `tandem keys list` shows them", field="id")

    def read(self) -> Listed:
        """All keys, oldest first; files that cannot be read are logged and counted.

        Raises: BundleError: when the storage does not answer.
        """
        keys, n_damaged = [], 0
        for name in self._home.children(FOLDER):
            if not name.endswith(".json"):
                continue
            try:
                keys.append(StoredKey.model_validate_json(self._home.read(f"{FOLDER}/{name}") or b""))
            except ValidationError:
                n_damaged += 1
                _LOG.error("%s holds no key that can be read; revoke it, or restore it", self._home.show(name))
        return Listed(sorted(keys, key=lambda key: (key.created_ms, key.id)), n_damaged)

    def _write(self, key: StoredKey) -> None:
        self._home.write(f"{FOLDER}/{key.id}.json", key.model_dump_json().encode())


@final
class KeyRing:
    """The keys that open a service now."""

    def __init__(self, keys: Collection[StoredKey]) -> None:
        self._keys: Mapping[str, StoredKey] = {key.id: key for key in keys if key.revoked_ms is None}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, text: str) -> StoredKey | None:
        """The key of a text, None where it is none, wrong, or revoked; each takes the same time."""
        match = _KEY.fullmatch(text)
        key_id, secret = match.groups() if match else ("", "")
        key = self._keys.get(key_id)
        same = hmac.compare_digest(_digest(secret), _NOBODYS if key is None else key.sha256)
        return key if same else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer(header: str | None) -> str:
    """The key in an Authorization header, empty where there is none.

    Raises: DataError: for another scheme.
    """
    if header is None:
        return ""
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "bearer":
        raise DataError("`Authorization: Bearer KEY` is required", field="authorization")
    return text.strip()
