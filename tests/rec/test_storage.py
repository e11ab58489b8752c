import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from rec.errors import BundleError, ConfigError
from rec.on_ray.trainer import kept_in
from rec.storage import Home, replace_file


@pytest.fixture(scope="module")
def store():
    """An object store on the loopback interface, as a URL with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"s3://key:secret@bucket/base?scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
    server.stop()


@pytest.fixture(params=["local", "object store"])
def home(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Home(tmp_path / "home")
    url = request.getfixturevalue("store").replace("/base", f"/{tmp_path.name}")
    home = Home(url)
    home._filesystem.create_dir("bucket")
    return home


def test_what_is_written_is_read(home):
    assert home.read("models/CURRENT") is None
    home.write("models/CURRENT", b"one\n")
    home.write("models/CURRENT", b"two\n")
    assert home.read("models/CURRENT") == b"two\n"


def test_ray_is_told_where_an_object_store_is_and_keeps_local_runs_by_their_path(home, tmp_path):
    place = home.place("runs/one")
    if home.folder is not None:
        assert place is None and kept_in(tmp_path, place) == {"storage_path": str(tmp_path)}
        return
    home.write("runs/one/fit/file", b"content")
    kept = kept_in(tmp_path, place.below("fit"))
    assert kept["storage_filesystem"].open_input_stream(f"{kept['storage_path']}/file").read() == b"content"


def test_children_are_sorted_and_a_missing_folder_has_none(home):
    assert home.children("models") == []
    home.write("models/b/x.json", b"")
    home.write("models/a", b"")
    assert home.children("models") == ["a", "b"]
    assert home.existing(["models/b/x.json", "models/none", "models/a"]) == ["models/b/x.json", "models/a"]


def test_files_go_up_and_come_down_unchanged(home, tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    home.write("models/other", b"")
    home.upload(tmp_path / "file", "models/file")
    home.download("models/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_download_of_a_missing_file_names_it(home, tmp_path):
    with pytest.raises(BundleError, match="no such file") as caught:
        home.download("models/none.json", tmp_path / "x")
    assert caught.value.file is not None
    assert caught.value.file.endswith("models/none.json")


def test_a_deleted_folder_is_gone(home):
    home.write("models/b/x.json", b"")
    home.write("models/c", b"")
    home.delete_folder("models/b")
    assert home.children("models") == ["c"]


def test_a_url_is_shown_without_credentials(store):
    assert Home(store).location == "s3://bucket/base"
    assert "secret" not in Home(store).show("x")


def test_homes_of_two_stores_have_caches_of_their_own(store):
    assert Home(store).cache != Home(store.replace("us-east-1", "eu-west-1")).cache
    assert Home(store).cache == Home(store).cache


def test_an_unknown_url_is_refused_without_its_credentials():
    with pytest.raises(ConfigError) as caught:
        Home("gopher://me:secret@host/models")
    assert caught.value.field == "home"
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_named():
    home = Home("s3://key:secret@bucket/base?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1")
    with pytest.raises(BundleError, match="did not answer") as caught:
        home.read("models/CURRENT")
    assert caught.value.file == "s3://bucket/base/models/CURRENT"
    assert "secret" not in str(caught.value)


def test_the_default_home_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TANDEM_HOME", raising=False)
    assert Home().folder == Path(tmp_path / ".tandem")
    monkeypatch.setenv("TANDEM_HOME", f"file://{tmp_path}/elsewhere")
    assert Home().folder == tmp_path / "elsewhere"


def test_a_failed_write_leaves_the_old_content_and_nothing_else(monkeypatch, tmp_path):
    replace_file(tmp_path / "CURRENT", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "CURRENT", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]
    assert (tmp_path / "CURRENT").read_bytes() == b"old"


def test_readers_see_whole_contents_while_a_writer_replaces_them(tmp_path):
    path = tmp_path / "CURRENT"
    contents = [bytes([letter]) * 50_000 for letter in b"ab"]
    replace_file(path, contents[0])
    done = threading.Event()

    def write():
        for turn in range(100):
            replace_file(path, contents[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    writer.join()


def test_killed_at_every_change_a_folder_that_is_replaced_is_the_old_one_or_the_new(tmp_path):
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("folder_killed.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 20
