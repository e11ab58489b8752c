import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from rec.bundle import MANIFEST, VERSION_PATTERN, BundleDetails
from rec.errors import BundleError
from rec.registry import CURRENT, HISTORY, MODELS, Registry
from rec.storage import Home

ROOT = Path(__file__).parents[2]
SCHEMA = "5" * 64
DETAILS = BundleDetails(config={"epochs": 3}, seed=1, schema_sha256=SCHEMA, metrics={"ndcg@10": 0.3})
FILLS_FOR_A_MINUTE = """
import sys, time
from rec.bundle import BundleDetails
from rec.registry import Registry
from rec.storage import Home

def fill(folder):
    (folder / "retriever.safetensors").write_bytes(b"half")
    print("filling", flush=True)
    time.sleep(60)

Registry(Home(sys.argv[1])).publish(fill, BundleDetails(config={}, seed=0, schema_sha256="5" * 64))
"""
ABSENT = "20200101T000000Z-00000000"


def fill(folder: Path) -> None:
    (folder / "retriever.safetensors").write_bytes(b"weights")
    (folder / "encoders.json").write_bytes(b"{}")


def publish(registry: Registry) -> str:
    return registry.publish(fill, DETAILS)


@pytest.fixture(scope="module")
def store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    server.stop()


@pytest.fixture(params=["local", "object store"])
def registry(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Registry(Home(tmp_path / "home"))
    query = request.getfixturevalue("store")
    Home(f"s3://key:secret@bucket{query}")._filesystem.create_dir("bucket")
    return Registry(Home(f"s3://key:secret@bucket/{tmp_path.name}{query}"))


@pytest.fixture
def local(tmp_path):
    return Registry(Home(tmp_path / "home"))


@pytest.fixture
def remote(tmp_path, monkeypatch, store):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    Home(f"s3://key:secret@bucket{store}")._filesystem.create_dir("bucket")
    return Registry(Home(f"s3://key:secret@bucket/{tmp_path.name}{store}"))


def hidden(registry: Registry) -> list[str]:
    """What unfinished writers have left behind, or still work on."""
    return sorted(path.name for path in registry._workspace.glob(".*") if path.name != ".lock")


def test_an_empty_home_has_no_model_and_says_so(registry):
    assert registry.versions() == []
    assert registry.entries() == []
    assert registry.current() is None
    with pytest.raises(BundleError, match="no model was promoted yet"):
        registry.open()


def test_a_published_bundle_opens_but_does_not_serve(registry):
    version = publish(registry)
    assert re.fullmatch(VERSION_PATTERN, version)
    assert registry.current() is None
    bundle = registry.open(version, schema_sha256=SCHEMA)
    assert bundle.version == version
    assert bundle.path("retriever.safetensors").read_bytes() == b"weights"
    assert registry.show(version) == bundle.manifest
    assert hidden(registry) == []


def test_versions_sort_by_time_even_within_one_second(registry):
    published = [publish(registry) for _ in range(3)]
    assert registry.versions() == published == sorted(published)


def test_versions_published_at_once_have_times_of_their_own(local):
    n_writers = 4
    together = threading.Barrier(n_writers)

    def fill_together(folder: Path) -> None:
        fill(folder)
        together.wait(timeout=30)

    with ThreadPoolExecutor(n_writers) as writers:
        futures = [writers.submit(local.publish, fill_together, DETAILS) for _ in range(n_writers)]
        published = [future.result() for future in futures]
    assert len({version.partition("-")[0] for version in published}) == n_writers
    assert local.versions() == sorted(published)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_all_files_of_a_bundle_have_the_mode_that_the_umask_gives(local, umask, mode):
    def private(folder: Path) -> None:
        fill(folder)
        (folder / "retriever.safetensors").chmod(0o600)

    before = os.umask(umask)
    try:
        folder = local.open(local.publish(private, DETAILS)).folder
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ["retriever.safetensors", "encoders.json", MANIFEST], mode
    )


def test_current_is_one_line_that_changes_with_each_promotion(registry):
    first, second = publish(registry), publish(registry)
    for version in (first, second):
        registry.promote(version)
        assert registry.home.read(CURRENT) == f"{version}\n".encode()
        assert registry.open().version == version
    assert [entry.is_current for entry in registry.entries()] == [False, True]


def test_rollback_goes_back_through_the_promotions(registry):
    a, b, c = (publish(registry) for _ in range(3))
    for version in (a, c, b):
        registry.promote(version)
    assert registry.rollback() == registry.current() == c
    assert registry.rollback() == registry.current() == a
    with pytest.raises(BundleError, match="no version served before"):
        registry.rollback()
    assert registry.current() == a


def test_a_version_rolled_back_from_does_not_come_back_by_rollback(local):
    a, b, c = (publish(local) for _ in range(3))
    local.promote(a)
    local.promote(b)
    local.rollback()
    local.promote(c)
    assert local.rollback() == a


def test_promoting_what_serves_changes_nothing(local):
    a, b = publish(local), publish(local)
    for version in (a, b, b, b):
        local.promote(version)
    assert local.rollback() == a


def test_a_version_may_serve_again(local):
    a, b = publish(local), publish(local)
    for version in (a, b, a):
        local.promote(version)
    assert [local.rollback(), local.rollback()] == [b, a]


@pytest.mark.parametrize("name", ["retriever.safetensors", "encoders.json", MANIFEST])
def test_a_damaged_bundle_is_not_promoted_and_what_serves_goes_on(registry, name):
    good, bad = publish(registry), publish(registry)
    registry.promote(good)
    registry.home.write(f"{MODELS}/{bad}/{name}", b"damaged")
    if registry.home.folder is None:
        (registry._workspace / bad / name).write_bytes(b"damaged")
    for refuse in (registry.promote, registry.open):
        with pytest.raises(BundleError) as caught:
            refuse(bad)
        assert caught.value.file is not None
        assert caught.value.file.endswith(f"/{name}")
    assert registry.current() == good
    assert registry.open().version == good


def test_a_rollback_to_a_damaged_bundle_is_refused(local):
    a, b = publish(local), publish(local)
    local.promote(a)
    local.promote(b)
    (local.home.folder / MODELS / a / "encoders.json").unlink()
    with pytest.raises(BundleError, match=r"encoders\.json"):
        local.rollback()
    assert local.current() == b


def test_another_schema_is_refused(registry):
    version = publish(registry)
    with pytest.raises(BundleError) as caught:
        registry.open(version, schema_sha256="6" * 64)
    assert caught.value.field == "schema_sha256"
    assert caught.value.file.endswith(f"{version}/{MANIFEST}")


def test_a_bundle_under_the_name_of_another_is_refused(local):
    a, b = publish(local), publish(local)
    folder = local.home.folder / MODELS
    (folder / a).rename(folder / "aside")
    (folder / b).rename(folder / a)
    with pytest.raises(BundleError, match=f"must be of version {a}"):
        local.open(a)


def test_a_damaged_manifest_is_listed_with_its_problem(local):
    a, b = publish(local), publish(local)
    (local.home.folder / MODELS / a / MANIFEST).write_bytes(b"{}")
    first, second = local.entries()
    assert first.manifest is None
    assert "damaged" in first.problem
    assert second.version == b
    assert second.problem is None


@pytest.mark.parametrize(
    "version", ["../../etc", "latest", "", "20260101T120000Z-1a2b3c4g", "20261301T120000Z-1a2b3c4d"]
)
def test_what_is_no_version_is_refused(local, version):
    publish(local)
    for refuse in (local.show, local.promote):
        with pytest.raises(BundleError, match="a version looks like"):
            refuse(version)


def test_an_absent_version_is_refused(registry):
    publish(registry)
    with pytest.raises(BundleError, match="missing") as caught:
        registry.promote(ABSENT)
    assert caught.value.file.endswith(f"{ABSENT}/{MANIFEST}")


def test_a_pointer_to_nothing_is_listed_with_its_problem(local):
    publish(local)
    local.home.write(CURRENT, f"{ABSENT}\n".encode())
    absent, published = local.entries()
    assert absent.version == ABSENT and absent.is_current and "missing" in absent.problem
    assert published.problem is None and not published.is_current


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\xfe", b"../x\n", f"{ABSENT}\n{ABSENT}\n".encode()])
def test_a_damaged_pointer_is_named_and_a_promotion_repairs_it(local, content):
    version = publish(local)
    local.home.write(CURRENT, content)
    with pytest.raises(BundleError) as caught:
        local.open()
    assert caught.value.file.endswith(CURRENT)
    assert [entry.is_current for entry in local.entries()] == [False]
    local.promote(version)
    assert local.current() == version


def test_a_damaged_history_is_named(local):
    version = publish(local)
    local.promote(version)
    local.home.write(HISTORY, b"nonsense\n")
    with pytest.raises(BundleError) as caught:
        local.rollback()
    assert caught.value.file.endswith(HISTORY)
    assert local.current() == version


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_writer_that_fails_leaves_nothing(registry, error):
    def fail(folder: Path) -> None:
        fill(folder)
        raise error

    with pytest.raises(error):
        registry.publish(fail, DETAILS)
    assert registry.versions() == []
    assert hidden(registry) == []


def test_a_living_writer_keeps_its_draft_and_a_dead_one_loses_it(local):
    def nested(folder: Path) -> None:
        fill(folder)
        inner.append(publish(local))
        drafts.extend(hidden(local))

    inner: list[str] = []
    drafts: list[str] = []
    dead = local._workspace / ".draft-dead"
    dead.mkdir(parents=True)
    (dead / "half.safetensors").write_bytes(b"x")
    (local._workspace / ".CURRENT-dead").write_bytes(b"x")
    version = local.publish(nested, DETAILS)
    assert len(drafts) == 1
    assert drafts[0] != ".draft-dead"
    assert set(local.versions()) == {version, *inner}
    assert hidden(local) == []


def test_folders_that_are_no_bundles_are_ignored(local):
    version = publish(local)
    (local._workspace / "notes").mkdir()
    (local._workspace / ABSENT).mkdir()
    (local._workspace / "99999999T999999Z-00000000").mkdir()
    assert local.versions() == [version]
    assert publish(local) > version


def test_an_upload_without_a_manifest_does_not_exist_and_is_removed_after_a_day(remote):
    young = publish(remote)
    remote.home._filesystem.delete_file(remote.home._path(f"{MODELS}/{young}/{MANIFEST}"))
    remote.home.write(f"{MODELS}/{ABSENT}/encoders.json", b"{}")
    assert remote.versions() == []
    publish(remote)
    assert young in remote.home.children(MODELS)
    assert ABSENT not in remote.home.children(MODELS)


def test_a_copy_is_fetched_once_and_again_when_damaged(remote, monkeypatch, tmp_path, store):
    version = publish(remote)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "another machine"))
    elsewhere = Registry(Home(f"s3://key:secret@bucket/{tmp_path.name}{store}"))
    fetched: list[str] = []
    download = Home.download
    monkeypatch.setattr(Home, "download", lambda home, name, path: (fetched.append(name), download(home, name, path)))
    bundle = elsewhere.open(version)
    assert tmp_path / "another machine" in bundle.folder.parents
    assert len(fetched) == len(bundle.manifest.files)
    assert elsewhere.open(version) == bundle
    assert len(fetched) == len(bundle.manifest.files)
    bundle.path("encoders.json").write_bytes(b"[]")
    assert elsewhere.open(version).path("encoders.json").read_bytes() == b"{}"
    assert hidden(elsewhere) == []


def test_objects_that_are_not_listed_are_not_fetched(remote, monkeypatch, tmp_path, store):
    version = publish(remote)
    remote.home.write(f"{MODELS}/{version}/extra.json", b"{}")
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "another machine"))
    bundle = Registry(Home(f"s3://key:secret@bucket/{tmp_path.name}{store}")).open(version)
    assert not (bundle.folder / "extra.json").exists()


def test_killed_at_every_write_the_registry_stays_valid(tmp_path):
    """Children publish, promote and roll back, each dying at a later call that changes the disk than the one before."""
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("registry_killed.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 20


def test_killed_in_the_middle_of_filling(local):
    first = publish(local)
    local.promote(first)
    child = subprocess.Popen(
        [sys.executable, "-c", FILLS_FOR_A_MINUTE, str(local.home.folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdout.readline() == b"filling\n"
    publish(local)
    assert len(hidden(local)) == 1
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert local.open().version == first
    publish(local)
    assert hidden(local) == []
    assert len(local.versions()) == 3
