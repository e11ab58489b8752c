"""Which model serves, chosen from the command line as the pages say it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from rec.bundle import BundleDetails
from rec.cli import main
from rec.registry import Registry
from rec.storage import Home

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"
DETAILS = BundleDetails(config={}, seed=1, schema_sha256="5" * 64)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A home with two models, of which the second serves."""
    registry = Registry(Home(tmp_path))
    for content in (b"{}", b"[]"):

        def fill(folder: Path, content: bytes = content) -> None:
            (folder / "encoders.json").write_bytes(content)

        registry.promote(registry.publish(fill, DETAILS))
    return registry


def test_a_model_is_promoted_as_the_page_says_and_rolled_back(registry: Registry, tmp_path: Path):
    [line] = re.findall(r"^    tandem (models promote .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    first, second = registry.versions()
    words = [first if word[0].isdigit() else word for word in shlex.split(line, comments=True)]
    assert first in words and main([*words, "--home", str(tmp_path)]) == 0
    assert registry.current() == first
    assert main(["models", "rollback", "--home", str(tmp_path)]) == 0
    assert registry.current() == second


def test_a_model_is_shown_by_its_version_and_else_the_one_that_serves(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = registry.versions()
    for named, shown in (([first], first), ([], second)):
        assert main(["models", "show", *named, "--home", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["model"]["version"] == shown


def test_the_metrics_of_a_model_that_was_trained_on_are_said_to_be_its_parents(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    first, second = registry.versions()
    details = DETAILS.model_copy(update={"parent": second, "metrics": {"ndcg@10": 0.49}})
    third = registry.publish(lambda folder: (folder / "encoders.json").write_bytes(b"{}"), details)
    assert main(["models", "list", "--home", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith(f"* {second}  validation: ")
    assert told[2] == f"  {third}  its parent {second} on what was new: ndcg@10 0.4900"
    assert main(["models", "list", "--home", str(tmp_path), "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["metrics_of"] for model in models] == [first, second, second]
