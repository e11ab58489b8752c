"""`tandem models update`: another catalogue, the same weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import rec


def test_items_are_added_changed_and_withdrawn_and_serve_at_once(
    tandem: Any, trained: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    home = str(shutil.copytree(trained[0], tmp_path / "home"))
    current = rec.load(home).version
    items, gone = tmp_path / "items.csv", tmp_path / "gone.txt"
    items.write_text("item_id,title,category\nnew-1,First,news\nvideo-5,,food\n", encoding="utf-8")
    gone.write_text("video-7\nvideo-8\n", encoding="utf-8")
    options = ("--home", home, "--items", str(items), "--withdraw", "video-6", "--withdraw-file", str(gone))
    done = tandem("models", "update", *options, "--no-promote", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == (
        "command ok version update_of added changed withdrawn returned n_items promoted warnings".split()
    )
    assert [answer[name] for name in ("added", "changed", "withdrawn", "returned")] == [1, 1, 3, 0]
    assert answer["update_of"] == current == rec.load(home).version
    # This model needs ids: it says that what is new is not found by its features.
    assert "id_dropout" in answer["warnings"][0]

    done = tandem("models", "update", *options)
    assert done.returncode == 0, done.stderr
    updated = rec.load(home)
    assert updated.version != current and f"CURRENT is {updated.version}" in done.stdout
    assert updated.item("video-5")["category"] == "food" and updated.item("new-1")["title"] == "First"
    assert tandem("models", "rollback", "--home", home).returncode == 0
    assert rec.load(home).version == current

    items.write_text("item_id,colour\nnew-1,red\n", encoding="utf-8")
    done = tandem("models", "update", "--home", home, "--items", str(items), "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert (error["file"], error["column"]) == (str(items), "colour")
    done = tandem("models", "update", "--home", home, "--withdraw", "video-x", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["field"] == "withdraw"
