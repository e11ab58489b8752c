import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rec.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    BundleDetails,
    FileDigest,
    Manifest,
    digest_folder,
    git_sha,
    open_bundle,
    parse_manifest,
    trained_config,
    write_manifest,
)
from rec.config import TrainConfig
from rec.errors import BundleError

VERSION = "20260101T120000Z-1a2b3c4d"
SCHEMA = "5" * 64
FILES = {
    "retriever.safetensors": bytes(range(256)) * 3,
    "ranker.lgb.txt": b"tree\nversion=v4\n",
    "encoders.json": b'{"user_id": ["1", "2"]}',
    "index.faiss": b"\x00\x01",
    "empty.json": b"",
}
DETAILS = BundleDetails(
    config={"seed": 3, "retriever": {"hidden": [128], "dropout": 0.1}},
    seed=3,
    schema_sha256=SCHEMA,
    tables={"ratings.dat": "a" * 64},
    metrics={"ndcg@10": 0.3141592653589793},
    git_sha="0" * 40,
)
# The examples share one folder, in which each of them puts back what it damaged.
REUSED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def write_bundle(folder: Path) -> None:
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    files = digest_folder(folder)
    write_manifest(
        folder, Manifest(**DETAILS.model_dump(), format_version=FORMAT_VERSION, version=VERSION, files=files)
    )


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(folder: Path, name: str, **expected) -> BundleError:
    """The error of a bundle that must be refused by the name of one of its files."""
    with pytest.raises(BundleError) as caught:
        open_bundle(folder, **expected)
    assert caught.value.file == str(folder / name)
    return caught.value


def refused_with(folder: Path, name: str, content: bytes) -> None:
    """Refused by the name of a file while it has another content, and intact again afterwards."""
    intact = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    refused(folder, name)
    (folder / name).write_bytes(intact)


def rewrite(folder: Path, leave_out: str = "", **changes) -> None:
    """A manifest with other values and a checksum that is right."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), file=MANIFEST)
    values = {name: getattr(manifest, name) for name in Manifest.model_fields if name != leave_out}
    write_manifest(folder, Manifest.model_construct(**{**values, **changes}))


def test_a_bundle_says_what_it_was_told(folder):
    bundle = open_bundle(folder, version=VERSION, schema_sha256=SCHEMA)
    assert bundle.version == VERSION
    assert BundleDetails(**bundle.manifest.model_dump(include=set(BundleDetails.model_fields))) == DETAILS
    assert {name: bundle.path(name).read_bytes() for name in bundle.manifest.files} == FILES


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert "missing" in refused(folder, name).message


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_folder_in_place_of_a_file_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name)


@pytest.mark.parametrize("name", [name for name in [*FILES, MANIFEST] if name != "empty.json"])
def test_every_truncation_is_refused(folder, name):
    content = (folder / name).read_bytes()
    for length in {*range(min(len(content), 64)), *range(0, len(content), 37), len(content) - 1}:
        refused_with(folder, name, content[:length])


@pytest.mark.parametrize("name", [name for name in [*FILES, MANIFEST] if name != "empty.json"])
@REUSED_FOLDER
@given(data=st.data())
def test_every_flipped_bit_is_refused(folder, name, data):
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused_with(folder, name, bytes(content))


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@REUSED_FOLDER
@given(tail=st.binary(min_size=1, max_size=20))
def test_anything_appended_is_refused(folder, name, tail):
    refused_with(folder, name, (folder / name).read_bytes() + tail)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(content=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(BundleError) as caught:
        parse_manifest(content, file=MANIFEST)
    assert caught.value.file == MANIFEST


@REUSED_FOLDER
@given(field=st.sampled_from([*Manifest.model_fields, "manifest_sha256", "new"]), value=json_values)
def test_a_manifest_with_any_value_changed_is_refused(folder, field, value):
    values = json.loads((folder / MANIFEST).read_bytes())
    if field in values and type(value) is type(values[field]) and value == values[field]:
        return
    content = json.dumps({**values, field: value}, indent=2, sort_keys=True) + "\n"
    refused_with(folder, MANIFEST, content.encode())


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format_version": ' + b"9" * 5000 + b"}",
        b'{"format_version": 1, "seed": 1e999}',
        b'{"format_version": true}',
        b'{"format_version": 1.0}',
        b"\xff\xfe{}",
        b"null",
        b"{}",
    ],
)
def test_hostile_json_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)
    refused(folder, MANIFEST)


@pytest.mark.parametrize("field", sorted(name for name, field in Manifest.model_fields.items() if field.is_required()))
def test_a_manifest_without_a_field_is_refused_though_its_checksum_is_right(folder, field):
    rewrite(folder, leave_out=field)
    refused(folder, MANIFEST)


@pytest.mark.parametrize(
    "name", ["../outside.json", "/etc/passwd", "a/b.json", "model.pkl", "model.pt", "x.json\n", ".x.json", "", "json"]
)
def test_a_file_that_a_bundle_must_not_hold_is_refused_in_a_valid_manifest(folder, name):
    rewrite(folder, files={name: FileDigest(size=0, sha256="0" * 64)})
    refused(folder, MANIFEST)


def test_another_format_is_refused(folder):
    rewrite(folder, format_version=FORMAT_VERSION + 1)
    error = refused(folder, MANIFEST)
    assert error.field == "format_version"
    assert f"must be {FORMAT_VERSION}, found {FORMAT_VERSION + 1}" in error.message


def test_another_schema_is_refused(folder):
    error = refused(folder, MANIFEST, schema_sha256="6" * 64)
    assert error.field == "schema_sha256"


def test_another_version_is_refused(folder):
    error = refused(folder, MANIFEST, version="20260101T120000Z-00000000")
    assert error.field == "version"


def test_a_file_that_is_not_listed_is_out_of_reach(folder):
    (folder / "extra.json").write_text("{}")
    bundle = open_bundle(folder)
    with pytest.raises(BundleError, match="no such file"):
        bundle.path("extra.json")


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "arrays.npy", MANIFEST, ".hidden.json", "name.JSON"])
def test_the_writer_takes_only_formats_that_hold_no_code(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BundleError) as caught:
        digest_folder(tmp_path)
    assert caught.value.file == str(tmp_path / name)


def test_the_writer_takes_no_links_folders_or_emptiness(tmp_path):
    with pytest.raises(BundleError, match="at least one file"):
        digest_folder(tmp_path)
    os.symlink("/dev/null", tmp_path / "a.json")
    with pytest.raises(BundleError, match=r"a\.json"):
        digest_folder(tmp_path)
    (tmp_path / "a.json").unlink()
    (tmp_path / "b.json").mkdir()
    with pytest.raises(BundleError, match=r"b\.json"):
        digest_folder(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_config_that_json_cannot_hold_is_refused(value):
    with pytest.raises(ValidationError, match=r"config\.x"):
        BundleDetails(config={"x": value}, seed=0, schema_sha256=SCHEMA)


def test_a_config_of_another_version_is_named_by_file_and_field(folder):
    manifest = open_bundle(folder).manifest
    with pytest.raises(BundleError, match="another version's config: there is no such field") as raised:
        trained_config(manifest)
    assert raised.value.file == f"models/{manifest.version}/manifest.json"
    assert raised.value.field == "config.retriever.dropout"
    given = TrainConfig(seed=5)
    assert trained_config(manifest.model_copy(update={"config": given.model_dump(mode="json")})) == given


def test_verifying_loads_no_parser_of_model_files(folder):
    code = (
        "import sys; from rec.bundle import open_bundle; open_bundle(sys.argv[1]);"
        "print(sorted({'torch', 'faiss', 'lightgbm', 'safetensors', 'ray'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=root
    )
    assert answer.stdout.strip() == "[]"


def test_the_commit_of_a_checkout_is_a_sha_or_unknown():
    sha = git_sha()
    assert sha is None or len(sha.removesuffix("-dirty")) == 40
