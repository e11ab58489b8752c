"""The registry: versions of the model, and which of them serves.

    models/<version>/   bundles; one exists as soon as its manifest does
    models/CURRENT      the version that serves, one line
    models/HISTORY      the versions that served before it, oldest first, one a line
    models/.draft-*     bundles being written or fetched; a dead writer's is removed by the next one

Both pointers are replaced atomically, HISTORY first. So HISTORY holds the earlier versions, or after a crash between
the two the earlier versions and the current one; a trailing current version is dropped on reading; nothing is lost.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, final

from rec.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    UPDATE_OF,
    VERSION_PATTERN,
    Bundle,
    BundleDetails,
    Manifest,
    digest_folder,
    open_bundle,
    parse_manifest,
    write_manifest,
)
from rec.errors import BundleError
from rec.storage import Home, sync

MODELS: Final = "models"
CURRENT: Final = f"{MODELS}/CURRENT"
HISTORY: Final = f"{MODELS}/HISTORY"
ABANDONED_AFTER: Final = timedelta(days=1)
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@final
@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of the list of models; `problem` says why there is no manifest."""

    version: str
    is_current: bool
    manifest: Manifest | None
    problem: str | None


@final
class Registry:
    """The models of a home. Bundles never change once published; only the pointers do.

    Writers on one machine take turns by a file lock. In an object store there is none: of two that promote at once the
    later wins, and publishing is safe in any case.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._workspace = (home.folder or home.cache) / MODELS

    def publish(self, fill: Callable[[Path], None], details: BundleDetails) -> str:
        """Build a bundle in a temporary folder and make it appear as a whole; it does not serve until promoted.

        Args: fill: writes the files, flat, into the folder it is given.
        Returns: the new version, later than all others; in an object store, than those that others had begun to
            upload when the upload of this one began.
        Raises: BundleError: for a file that a bundle does not take. What `fill` raises leaves nothing behind.
        """
        with self._draft() as folder:
            fill(folder)
            files = digest_folder(folder)
            # No other version may come in between naming this one and its appearing. Uploads would keep others waiting.
            with self._lock() if self.home.folder is not None else nullcontext():
                version = self._next_version()
                write_manifest(
                    folder,
                    Manifest(**details.model_dump(), format_version=FORMAT_VERSION, version=version, files=files),
                )
                if self.home.folder is None:
                    for name in [*files, MANIFEST]:
                        self.home.upload(folder / name, f"{MODELS}/{version}/{name}")
                os.rename(folder, self._workspace / version)
                sync(self._workspace)
        return version

    def versions(self) -> list[str]:
        """All published versions, oldest first."""
        named = self._version_folders()
        found = set(self.home.existing([_manifest_name(version) for version in named]))
        return [version for version in named if _manifest_name(version) in found]

    def entries(self) -> list[ModelEntry]:
        """All published versions with their manifests, oldest first; damaged ones are listed with their problem.

        So is a version that CURRENT names and that is not there. None is the current one when CURRENT is damaged;
        `current` says so.
        """
        current = self._readable_current()
        entries: list[ModelEntry] = []
        versions = self.versions()
        if current is not None and current not in versions:
            versions = sorted([*versions, current])
        for version in versions:
            try:
                entries.append(ModelEntry(version, version == current, self.show(version), None))
            except BundleError as error:
                entries.append(ModelEntry(version, version == current, None, str(error)))
        return entries

    def show(self, version: str) -> Manifest:
        """The manifest of a version; the files are not verified."""
        return parse_manifest(
            self.home.read(_manifest_name(version)), file=self.home.show(_manifest_name(version)), version=version
        )

    def trained(self, version: str) -> str:
        """The version that was trained, of which this one is an update of the catalogue; itself where it is none.

        Of a version that is lost or damaged nothing is known, and it stands for itself.
        """
        while True:
            try:
                base = self.show(version).tables.get(UPDATE_OF)
            except BundleError:
                return version
            if base is None:
                return version
            version = base

    def current(self) -> str | None:
        """The version that serves, None before the first promotion."""
        content = self.home.read(CURRENT)
        if content is None:
            return None
        lines = content.decode(errors="replace").splitlines()
        if len(lines) != 1 or not _is_version(lines[0]):
            raise BundleError(
                f"must be one line with a version, found {content[:80]!r}; promote a version to write it anew",
                file=self.home.show(CURRENT),
            )
        return lines[0]

    def open(self, version: str | None = None, *, schema_sha256: str | None = None) -> Bundle:
        """A verified bundle on the local disk; from an object store a verified copy is kept in the cache.

        Args: version: the current one where None. schema_sha256: of the data it is to be used with, any where None.
        Raises: BundleError: naming the file that is missing, damaged, or of another format, version or schema.
        """
        version = self.current() if version is None else version
        if version is None:
            raise BundleError("no model was promoted yet; train one, or promote one", file=self.home.show(CURRENT))
        name = _manifest_name(version)
        if self.home.folder is not None:
            return open_bundle((self.home.folder / name).parent, version=version, schema_sha256=schema_sha256)
        manifest = parse_manifest(
            self.home.read(name), file=self.home.show(name), version=version, schema_sha256=schema_sha256
        )
        return self._kept(manifest) or self._fetch(manifest)

    def promote(self, version: str, *, instead_of: str | None = None) -> None:
        """Let a version serve, after all of it was verified.

        Args: instead_of: what must be serving until then; None: anything.
        Raises: BundleError: as `open`, and where another serves than it has to be; that goes on serving.
        """
        self.open(version)
        with self._lock():
            current = self._readable_current()
            if current == version:
                return
            if instead_of is not None and current != instead_of:
                raise BundleError(
                    f"{version} was to serve instead of {instead_of}, and {current} does by now, which it knows "
                    f"nothing of; begin again from that, or promote {version} by name",
                    file=self.home.show(CURRENT),
                )
            earlier = self._earlier(current)
            if current is not None:
                self._write_lines(HISTORY, [*earlier, current])
            self._write_lines(CURRENT, [version])

    def rollback(self) -> str:
        """Let the version serve that served before the current one; a second rollback goes one further back.

        Returns: the version that now serves.
        Raises: BundleError: when there is no earlier one, or it is damaged; the current version goes on serving.
        """
        with self._lock():
            earlier = self._earlier(self.current())
            if not earlier:
                raise BundleError(
                    "no version served before the current one; promote another by name", file=self.home.show(HISTORY)
                )
            target = earlier[-1]
        self.open(target)
        with self._lock():
            if self._earlier(self.current()) != earlier:
                raise BundleError(
                    "another promotion came in between; look, and try again", file=self.home.show(CURRENT)
                )
            self._write_lines(HISTORY, earlier)
            self._write_lines(CURRENT, [target])
        return target

    def _readable_current(self) -> str | None:
        try:
            return self.current()
        except BundleError:
            return None

    def _earlier(self, current: str | None) -> list[str]:
        lines = (self.home.read(HISTORY) or b"").decode(errors="replace").splitlines()
        wrong = [line for line in lines if not _is_version(line)]
        if wrong:
            raise BundleError(
                f"must hold one version a line, found {wrong[0]!r}; correct it, or delete the file to forget the past",
                file=self.home.show(HISTORY),
            )
        while lines and lines[-1] == current:
            lines.pop()
        return lines

    def _write_lines(self, name: str, lines: list[str]) -> None:
        self.home.write(name, "".join(f"{line}\n" for line in lines).encode())

    def _next_version(self) -> str:
        moment = datetime.now(UTC)
        for latest in self._version_folders()[-1:]:
            moment = max(moment, _published_at(latest) + timedelta(seconds=1))
        return f"{moment.strftime(_STAMP)}-{secrets.token_hex(4)}"

    def _kept(self, manifest: Manifest) -> Bundle | None:
        try:
            bundle = open_bundle(self._workspace / manifest.version, version=manifest.version)
        except BundleError:
            return None
        return bundle if bundle.manifest == manifest else None

    def _fetch(self, manifest: Manifest) -> Bundle:
        with self._draft() as folder:
            for file in manifest.files:
                self.home.download(f"{MODELS}/{manifest.version}/{file}", folder / file)
            write_manifest(folder, manifest)
            open_bundle(folder)
            kept = self._workspace / manifest.version
            with self._lock():
                if self._kept(manifest) is None:
                    shutil.rmtree(kept, ignore_errors=True)
                    os.rename(folder, kept)
        return Bundle(kept, manifest)

    def _version_folders(self) -> list[str]:
        return [name for name in self.home.children(MODELS) if _is_version(name)]

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A temporary folder, locked for as long as this process lives and works in it."""
        with ExitStack() as held:
            with self._lock():
                self._sweep()
                folder = self._workspace / f".draft-{secrets.token_hex(8)}"
                folder.mkdir()
                held.enter_context(_flock(folder, os.O_RDONLY, fcntl.LOCK_EX))
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def _sweep(self) -> None:
        """Remove what dead writers left: unlocked drafts, unfinished pointers, uploads without a manifest."""
        for pattern in (".CURRENT-*", ".HISTORY-*"):
            for path in self._workspace.glob(pattern):
                path.unlink(missing_ok=True)
        for path in self._workspace.glob(".draft-*"):
            with suppress(BlockingIOError, FileNotFoundError), _flock(path, os.O_RDONLY, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(path, ignore_errors=True)
        if self.home.folder is None:
            for name in set(self._version_folders()).difference(self.versions()):
                if datetime.now(UTC) - _published_at(name) > ABANDONED_AFTER:
                    self.home.delete_folder(f"{MODELS}/{name}")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self._workspace.mkdir(parents=True, exist_ok=True)
                held.enter_context(_flock(self._workspace / ".lock", os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX))
            except OSError as error:
                raise BundleError(
                    f"must be a folder that can be written: {error}", file=str(self._workspace)
                ) from error
            yield


@contextmanager
def _flock(path: Path, flags: int, operation: int) -> Iterator[None]:
    """A file lock; the system ends it with the process, however that dies."""
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _manifest_name(version: str) -> str:
    if not _is_version(version):
        raise BundleError(
            f"a version looks like 20260101T120000Z-1a2b3c4d, found {version!r}; `tandem models list` shows them",
            field="version",
        )
    return f"{MODELS}/{version}/{MANIFEST}"


def _is_version(text: str) -> bool:
    try:
        return re.fullmatch(VERSION_PATTERN, text) is not None and _published_at(text) is not None
    except ValueError:
        return False


def _published_at(version: str) -> datetime:
    return datetime.strptime(version.partition("-")[0], _STAMP).replace(tzinfo=UTC)
