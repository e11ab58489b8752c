"""The reference of configs says what the models say, and the documentation is built without a broken link."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from rec.cli import COMMON_OPTIONS, parse
from rec.cli.commands import COMMANDS
from rec.config import Config, HomePath
from tests.test_docs_flags import FLAG, OF_ALL, help_of

ROOT = Path(__file__).parents[1]


class Inner(Config):
    """A part.

    Attributes:
        rate: of learning. share: of
            rows.
    """

    rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    share: float | None = None


class Outer(Config):
    """The whole.

    `kind` says which.
    """

    kind: Literal["a", "b", "c"] = "a"
    count: NonNegativeInt
    inner: Inner = Inner(share=0.25)
    parts: tuple[Inner, ...] = (Inner(),)
    names: dict[str, float] = Field(default_factory=dict)
    home: HomePath


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("configs", ROOT / "docs" / "hooks" / "configs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(reference: ModuleType) -> list[type[Config]]:
    """All configs that the page has a section for."""
    options = {command.options(): None for command in COMMANDS.values()}
    return [*options, *reference._parts_of(options)]


def test_a_section_of_a_small_config(reference: ModuleType) -> None:
    *docs, table = reference.section(Outer)
    assert docs == ["The whole.\n\n`kind` says which."]
    assert table.splitlines()[2:] == [
        '| `kind` | `a`, `b` or `c` | `"a"` |',
        "| `count` | whole number ≥ 0 | required |",
        '| `inner` | [Inner](#inner) | `{"share": 0.25}` |',
        "| `parts` | a list, each [Inner](#inner) | `[{}]` |",
        "| `names` | a map: name to number | `{}` |",
        "| `home` | text | `TANDEM_HOME`, else `./.tandem` |",
    ]
    doc, table = reference.section(Inner)
    assert doc == "A part."
    assert table.splitlines()[2:] == [
        "| `rate` | number > 0, ≤ 1 | `0.5` | of learning. |",
        "| `share` | number, or `null` | `null` | of rows. |",
    ]


def test_every_field_of_every_command_is_there(reference: ModuleType, models: list[type[Config]]) -> None:
    page = reference.page()
    assert all(f"`tandem {name}`: {command.summary}" in page for name, command in COMMANDS.items())
    tables = [set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in re.split(r"^##+ ", page, flags=re.M)]
    for model in models:
        assert set(model.model_fields) in tables, model
    # A field that holds another config is found by its name alone, at whatever depth.
    assert {"TrainOptions", "UserTowerConfig", "BranchConfig", "ArmConfig", "ParameterConfig", "InstaTokConfig"} <= {
        model.__name__ for model in models
    }


def test_a_default_read_from_the_page_is_the_default(
    reference: ModuleType, models: list[type[Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TANDEM_HOME", raising=False)
    for model in models:
        for row in reference.fields(model):
            field = model.model_fields[row.name]
            assert (row.default is None) == field.is_required()
            if row.default is not None:
                read = TypeAdapter(field.rebuild_annotation()).validate_python(yaml.safe_load(row.default))
                assert read == field.get_default(call_default_factory=True), f"{model.__name__}.{row.name}"


def test_a_value_outside_the_bounds_of_the_page_is_refused(reference: ModuleType, models: list[type[Config]]) -> None:
    outside = {">": 0.0, "≥": -1.0, "<": 0.0, "≤": 1.0}
    refused = 0
    for model in models:
        for row in reference.fields(model):
            adapter: TypeAdapter[Any] = TypeAdapter(model.model_fields[row.name].rebuild_annotation())
            bounds = re.findall(r"([><≥≤]) ([\d.e+-]+)", row.kind)
            for sign, bound in bounds if re.match("(whole )?number", row.kind) else []:
                value = float(bound) + outside[sign]
                with pytest.raises(ValidationError):
                    adapter.validate_python(int(value) if value == int(value) else value)
                refused += 1
    assert refused > 100


def read_flag(section: str, path: str) -> str:
    """What a reader of a command's section gives on the command line for a field."""
    if found := re.search(rf"^\| `{re.escape(path)}` \| (?:`([^`]+)`|only in a file) \|$", section, re.MULTILINE):
        return found[1] or ""
    part, _, rest = path.partition(".")
    return "--" + (rest if f"| all else in `{part}` | without `{part}.`" in section else path).replace("_", "-")


def test_a_flag_read_from_the_page_is_the_one_that_the_command_takes(reference: ModuleType) -> None:
    sections = re.split(r"^## ", reference.page(), flags=re.M)
    for name in COMMANDS:
        (section,) = [section for section in sections if f"- `tandem {name}`:" in section]
        read = {path: read_flag(section, path) for path in reference.flags(COMMANDS[name].options())}
        taken = set(FLAG.findall(help_of(name).partition(COMMON_OPTIONS)[2])) - OF_ALL
        of_a_list = {flag for flag in taken if re.search(r"\.\d+\.", flag)}
        assert {flag for flag in read.values() if flag.startswith("-")} == taken - of_a_list, name
        for path, told in read.items():
            if told.startswith("tandem "):
                assert told.removesuffix("]").endswith(path.upper())
                assert getattr(parse(name, ["word"]), path) == "word"


def test_the_decisions_are_listed_by_their_titles() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "index.md").read_text(encoding="utf-8")
    for page in sorted(folder.glob("0*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        number, _, words = title.partition(". ")
        assert f"| {number} | [{words}]({page.name}) |" in listed


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)


def test_the_documentation_is_built_and_shows_its_pictures(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UserTowerConfig" in (tmp_path / "site" / "configs" / "index.html").read_text(encoding="utf-8")
    for page in (tmp_path / "site").rglob("index.html"):
        for link in re.findall(r'<img[^>]* src="([^":]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / link).resolve().is_file(), f"{page}: {link}"


@pytest.mark.slow
@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](data.md#nowhere)", "![a](images/nowhere.png)"])
def test_a_broken_link_fails_the_build(tmp_path: Path, link: str) -> None:
    for folder in ("docs", "benchmarks/results"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{link}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "nowhere" in done.stderr and "1 warnings" in done.stdout + done.stderr
