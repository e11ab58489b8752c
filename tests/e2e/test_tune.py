"""`tandem tune` refuses what cannot be searched before any trial; what it does is in tests/tune."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("searched", "flags", "told"),
    [
        ("parameters: {retriever.tower.dim: {choices: [1, 2]}}", [], "the config has no field retriever.tower.dim"),
        ("spaces: [learning]\nstarts: [{retriever.output_dim: 8}]", [], "retriever.output_dim is not searched"),
        ("trials: 3", [], "say what to search"),
        ("spaces: [alpha]", [], "off_policy.alpha"),
        ("spaces: [learning]", ["--scheduler", "asha", "--judge", "both"], "take judge retriever"),
        ("spaces: [learning]", ["--resume", "none"], "there is no search 'none'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tandem: Any, tmp_path: Path, searched: str, flags: list[str], told: str):
    file, home = tmp_path / "search.yaml", tmp_path / "home"
    file.write_text(searched, encoding="utf-8")
    done = tandem("tune", "--config", str(file), "--home", str(home), *flags, "--json")
    assert done.returncode == 2
    assert told in json.loads(done.stdout)["error"]["message"]
    assert not home.exists()
