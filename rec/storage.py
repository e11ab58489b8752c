"""A home: the folder of models, events and runs, on a local disk or in an object store."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from urllib.parse import parse_qs, urlsplit

from pyarrow import ArrowInvalid, NativeFile
from pyarrow import fs as arrow_fs

from rec.config import default_home
from rec.errors import BundleError, ConfigError

CACHE_VARIABLE: Final = "TANDEM_CACHE"


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A folder in an object store, as Ray takes it: a path on a filesystem."""

    filesystem: arrow_fs.FileSystem
    path: str

    def below(self, name: str) -> "Place":
        """A folder in it."""
        return Place(self.filesystem, f"{self.path}/{name}")


@final
class Home:
    """Files by name below one root; a name is relative and written with slashes.

    A write is seen whole or not at all: locally by a rename, in an object store because an object appears when its
    upload ends.

    Attributes:
        location: the root as it may be shown: an absolute path, or a URL without its credentials and query.
        folder: the root on the local disk; None in an object store.
        cache: local folder for copies of what is remote.
    """

    def __init__(self, location: str | Path | None = None) -> None:
        """Opens a home; nothing is read or created yet.

        Args: location: a path or a URL such as `s3://bucket/prefix?region=eu-west-1` (every URL that pyarrow reads);
            by default the variable TANDEM_HOME, else ./.tandem.
        Raises: ConfigError: for a URL that pyarrow does not understand.
        """
        given = str(location or default_home())
        self.folder: Path | None
        if "://" not in given:
            self._filesystem, self.folder = arrow_fs.LocalFileSystem(), Path(given).expanduser().absolute()
            self._root = self.location = identity = str(self.folder)
        else:
            parts = urlsplit(given)
            self.location = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
            identity = f"{self.location}?{parts.query}"
            try:
                self._filesystem, root = arrow_fs.FileSystem.from_uri(given)
            except (ArrowInvalid, OSError, ImportError) as error:
                raise ConfigError(
                    f"{self.location} is no home that can be opened; give a local path, or a URL that pyarrow.fs reads "
                    "(s3://, gs://, abfs://)",
                    field="home",
                ) from error
            self._root = root.rstrip("/")
            self.folder = Path(self._root) if isinstance(self._filesystem, arrow_fs.LocalFileSystem) else None
        self.cache = _cache_root() / hashlib.sha256(identity.encode()).hexdigest()[:16]

    def show(self, name: str) -> str:
        """Where a name is, as messages say it."""
        return f"{self.location}/{name}"

    def place(self, name: str) -> Place | None:
        """A folder that all machines reach; None on a local disk, where a path says it."""
        return None if self.folder is not None else Place(self._filesystem, self._path(name))

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none.

        Raises: BundleError: naming the file, when the storage does not answer.
        """
        with self._naming(name):
            try:
                with self._filesystem.open_input_stream(self._path(name)) as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    @contextmanager
    def opened(self, name: str) -> Iterator[NativeFile | None]:
        """A file to be read here and there, None where there is none.

        Raises: BundleError: naming the file, when the storage does not answer.
        """
        with self._naming(name):
            try:
                file = self._filesystem.open_input_file(self._path(name))
            except FileNotFoundError:
                yield None
                return
            with file:
                yield file

    def write(self, name: str, content: bytes) -> None:
        """Replace or create a file, atomically and durably."""
        with self._naming(name):
            if self.folder is not None:
                replace_file(self.folder / name, content)
                return
            with self._filesystem.open_output_stream(self._path(name)) as stream:
                stream.write(content)

    def children(self, name: str) -> list[str]:
        """The names directly below a folder, sorted; none where there is no such folder."""
        with self._naming(name):
            selector = arrow_fs.FileSelector(self._path(name), allow_not_found=True)
            return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def existing(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are files."""
        if not names:
            return []
        with self._naming(names[0]):
            infos = self._filesystem.get_file_info([self._path(name) for name in names])
            return [name for name, info in zip(names, infos, strict=True) if info.is_file]

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to a name; only an object store makes it appear atomically."""
        self._copy(str(path), arrow_fs.LocalFileSystem(), self._path(name), self._filesystem, name)

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path.

        Raises: BundleError: naming the file, when it is missing or the storage does not answer.
        """
        self._copy(self._path(name), self._filesystem, str(path), arrow_fs.LocalFileSystem(), name)

    def delete_folder(self, name: str) -> None:
        """Delete all that is below a name."""
        with self._naming(name):
            self._filesystem.delete_dir(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _copy(
        self, source: str, source_fs: arrow_fs.FileSystem, target: str, target_fs: arrow_fs.FileSystem, name: str
    ) -> None:
        with self._naming(name):
            arrow_fs.copy_files(source, target, source_filesystem=source_fs, destination_filesystem=target_fs)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BundleError("no such file", file=self.show(name)) from error
        except OSError as error:
            raise BundleError(
                f"the storage refused or did not answer: {error}; check address, credentials and permissions",
                file=self.show(name),
            ) from error


def refuse_credentials(url: str | None, field: str) -> None:
    """Refuses a URL that holds credentials, where it is kept for all to read.

    Raises: ConfigError: naming the field, and where credentials belong.
    """
    if url is None or "://" not in url:
        return
    parts = urlsplit(url)
    # The user of an abfs:// URL is a container, and its query may hold a signature; gs:// has a user without a key.
    azure, signed = parts.scheme.startswith("abfs"), "sig" in parse_qs(parts.query)
    if parts.password or signed or (parts.username and not azure and parts.username != "anonymous"):
        raise ConfigError(
            "a URL without credentials is required, as it is kept with the run and in the bundle; give them in the "
            "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or "
            "AZURE_STORAGE_ACCOUNT_KEY",
            field=field,
        )


def _cache_root() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"


def replace_file(path: Path, content: bytes) -> None:
    """Write a local file so that a crash leaves the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Put a new local folder in the place of one, so that a crash leaves the old one or the new, whole.

    It is filled beside, as NAME.new; then the old one becomes NAME.old, and the new one takes its name. Between these
    two there is none of the name itself: call `recover_folder` before reading what a crash may have left.

    Args: folder: there or not. fill: makes a folder of the path it is given, which is not there, and fills it.
    """
    recover_folder(folder)
    new, old = _beside(folder)
    fill(new)
    for path in (*new.rglob("*"), new):
        sync(path)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    recover_folder(folder)


def recover_folder(folder: Path) -> None:
    """End what a crash within `replace_folder` left half done; afterwards the folder is whole, or was never there."""
    new, old = _beside(folder)
    # The old one makes room only when the new one is whole.
    if old.exists() and not folder.exists():
        new.rename(folder)
        sync(folder.parent)
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")


def sync(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
