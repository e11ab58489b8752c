"""A bundle: a folder of model files that is verified before any of them is opened.

`manifest.json` names every file with its size and sha256, and carries a checksum of itself. Checksums find damage; they
do not authenticate: whoever may write to the registry is trusted.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, final

from pydantic import Field, FiniteFloat, JsonValue, StringConstraints

from rec.config import Config, TrainConfig, parse_config
from rec.errors import BundleError, ConfigError
from rec.storage import replace_file, sync

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
# Formats that hold data and no code: nothing that is loaded by pickle can be put into a bundle.
FILE_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|json|parquet|faiss|txt)$"
VERSION_PATTERN: Final = r"^\d{8}T\d{6}Z-[0-9a-f]{8}$"
# In a manifest's `tables`: the version whose catalogue was changed, with weights that stayed the same.
UPDATE_OF: Final = "update of"
_CHECKSUM: Final = "manifest_sha256"
_REMEDY: Final = "restore the file, or roll back to another version"

FileName = Annotated[str, StringConstraints(pattern=FILE_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BundleDetails(Config):
    """What a bundle says about its origin.

    Attributes:
        config: the configuration it was trained with, as JSON.
        seed: seed of the training.
        schema_sha256: `FeatureSchema.sha256` of the data.
        tables: what was read: table name to its version, or to the sha256 of its files.
        metrics: validation metrics by name, such as `ndcg@10`.
        git_sha: commit of the code, `-dirty` appended when it was changed; None outside a checkout.
        parent: the version that training went on from; None where it began anew.
        trained_from_ms, trained_until_ms: what it learned from; of a model with a parent what was new.
        warnings: what makes the training doubtful.
    """

    config: dict[str, JsonValue]
    seed: int
    schema_sha256: Sha256
    tables: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    git_sha: str | None = None
    parent: str | None = None
    trained_from_ms: int | None = None
    trained_until_ms: int | None = None
    warnings: list[str] = Field(default_factory=list)


class FileDigest(Config):
    """How a file must look before it is opened; size in bytes."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(BundleDetails):
    """The content of manifest.json."""

    format_version: int
    version: Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
    files: dict[FileName, FileDigest]


@final
@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were all verified."""

    folder: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        """The version, such as `20260101T120000Z-1a2b3c4d`."""
        return self.manifest.version

    def path(self, name: str) -> Path:
        """Where a verified file is; files that the manifest does not list cannot be reached.

        Raises: BundleError: naming the file, when the bundle does not have it.
        """
        if name not in self.manifest.files:
            known = ", ".join(sorted(self.manifest.files))
            raise BundleError(f"the bundle has no such file; it has {known}", file=str(self.folder / name))
        return self.folder / name


def digest_folder(folder: Path) -> dict[str, FileDigest]:
    """Force every file of a folder to the disk, and return what its manifest has to say about it.

    Whoever may look into the folder may read its files afterwards, whatever permissions their writers gave them.

    Raises: BundleError: naming the entry, when it is a folder, a link, or of a format that a bundle does not take.
    """
    digests: dict[str, FileDigest] = {}
    mode = folder.stat().st_mode & 0o666
    for path in sorted(folder.iterdir()):
        if (
            path.is_symlink()
            or not path.is_file()
            or not re.fullmatch(FILE_PATTERN, path.name)
            or path.name == MANIFEST
        ):
            raise BundleError(
                "a bundle holds plain files named *.safetensors, *.json, *.parquet, *.faiss or *.txt, "
                f"and {MANIFEST} is written last by the registry; move this elsewhere",
                file=str(path),
            )
        path.chmod(mode)
        sync(path)
        digests[path.name] = _digest(path)
    if not digests:
        raise BundleError("a bundle needs at least one file; nothing was written", file=str(folder))
    return digests


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a folder of files a bundle; from now on it must not change."""
    body = manifest.model_dump(mode="json")
    content = _encode({**body, _CHECKSUM: _checksum(body)})
    replace_file(folder / MANIFEST, content)


def trained_config(manifest: Manifest) -> TrainConfig:
    """The config that a bundle was trained with.

    Raises: BundleError: naming file and field, where it is none of this version's.
    """
    file = f"models/{manifest.version}/{MANIFEST}"
    try:
        return parse_config(TrainConfig, manifest.config, file=file)
    except ConfigError as error:
        raise BundleError(
            f"trained with another version's config: {error.message}; take that version, or train again",
            file=file,
            field=f"config.{error.field}" if error.field else "config",
        ) from error


def parse_manifest(
    content: bytes | None, *, file: str, version: str | None = None, schema_sha256: str | None = None
) -> Manifest:
    """A manifest from the bytes of manifest.json (None where there is no such file).

    Args: file: where it is, for messages. version, schema_sha256: what the bundle must be of; any where None.
    Raises: BundleError: naming the file, unless these are the very bytes that `write_manifest` wrote.
    """
    if content is None:
        raise BundleError("missing: no bundle here, or an incomplete one; publish it again", file=file)
    try:
        values = json.loads(content)
        found = values["format_version"]
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise BundleError(f"damaged: no manifest can be read from it; {_REMEDY}", file=file) from error
    if type(found) is not int or found != FORMAT_VERSION:
        raise BundleError(
            f"bundle format must be {FORMAT_VERSION}, found {found!r}; use the Tandem that wrote it, or train again",
            file=file,
            field="format_version",
        )
    try:
        checksum = values.pop(_CHECKSUM, None)
        intact = checksum == _checksum(values) and content == _encode({**values, _CHECKSUM: checksum})
        manifest = Manifest.model_validate_json(json.dumps(values)) if intact else None
    except (ValueError, RecursionError, TypeError) as error:
        raise BundleError(f"damaged: {error}; {_REMEDY}", file=file) from error
    if manifest is None:
        raise BundleError(f"damaged: its own checksum does not match; {_REMEDY}", file=file, field=_CHECKSUM)
    if version is not None and manifest.version != version:
        raise BundleError(
            f"must be of version {version}, found {manifest.version}; {_REMEDY}", file=file, field="version"
        )
    if schema_sha256 is not None and manifest.schema_sha256 != schema_sha256:
        raise BundleError(
            f"the bundle's features are not these: schema must be {schema_sha256}, found {manifest.schema_sha256}; "
            "use the data it was trained on, or train again",
            file=file,
            field="schema_sha256",
        )
    return manifest


def open_bundle(folder: str | Path, *, version: str | None = None, schema_sha256: str | None = None) -> Bundle:
    """Verify a bundle: manifest first, then size and sha256 of every file. Nothing in it is parsed here.

    Files that the manifest does not list are left alone: they can neither be reached through the bundle nor harm it.

    Args: version, schema_sha256: what it must be; any where None.
    Raises: BundleError: naming the file that is missing, damaged, or of another format, version or schema.
    """
    folder = Path(folder)
    file = folder / MANIFEST
    with _naming(file):
        content = file.read_bytes() if file.exists() else None
    manifest = parse_manifest(content, file=str(file), version=version, schema_sha256=schema_sha256)
    for name, expected in sorted(manifest.files.items()):
        _verify(folder / name, expected)
    return Bundle(folder, manifest)


def git_sha() -> str | None:
    """The commit of this code, with `-dirty` when files were changed; None where it is not in a git checkout.

    Results that a benchmark has stored are no change: so one benchmark may run after the other.
    """
    here = Path(__file__)
    tracked = _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
    sha = tracked and _git("rev-parse", "HEAD", folder=here.parent)
    code = (":(top)", ":(top,exclude)benchmarks/results")
    changed = sha and _git("status", "--porcelain", "--untracked-files=no", "--", *code, folder=here.parent)
    return f"{sha}-dirty" if changed else sha


def _verify(path: Path, expected: FileDigest) -> None:
    with _naming(path):
        if not path.is_file():
            raise BundleError(f"missing from the bundle; {_REMEDY}", file=str(path))
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(f"damaged: must have {expected.size} bytes, found {size}; {_REMEDY}", file=str(path))
        found = _digest(path).sha256
    if found != expected.sha256:
        raise BundleError(f"damaged: sha256 must be {expected.sha256}, found {found}; {_REMEDY}", file=str(path))


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as stream:
        return FileDigest(size=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


def _encode(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(_encode(body)).hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"not readable: {error}", file=str(path)) from error
