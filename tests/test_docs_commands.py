"""Every command line that the documentation shows is one that the program takes, and every config file, too.

Options by name are held to the commands in test_docs_flags.py; here whole lines are parsed, values included, and
nothing is run. Those in blocks are run in tests/e2e/test_docs_shell.py, and in test_guide.py beside it.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rec.cli import parse
from rec.cli.commands import COMMANDS
from rec.config import parse_config
from rec.errors import ConfigError

ROOT = Path(__file__).parents[1]
# The changelog names options of commands as they were, in part.
PAGES = sorted([*set(ROOT.glob("*.md")).difference([ROOT / "CHANGELOG.md"]), *ROOT.glob("docs/**/*.md")])
NAME = "|".join(sorted(map(re.escape, COMMANDS), key=len, reverse=True))
ENDS = {"|", "||", "&", "&&", ">", ">>", "2>&1", ";"}
# What stands for a value that the reader chooses.
CHOSEN = {
    "--data NAME": "--data csv",
    "--objective NAME": "--objective ips",
    "--rewards ...": "--rewards watched 1",
    " ...": "",
}
# The first keys of files that are for other programs.
FOREIGN = {"scrape_configs", "groups"}


def lines(text: str) -> Iterator[str]:
    """What stands in code: each line of a block, continued ones joined, and what is in a line between backticks."""
    prose = []
    fence = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            yield line.strip()
        else:
            prose.append(line)
    # A line between backticks may name a command without what it needs; with options it is to be taken as it is.
    yield from (code for code in re.findall(r"`([^`]+)`", " ".join(prose)) if " --" in code)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line of code that calls tandem: which command, and its arguments."""
    for line in lines(text):
        for found, chosen in CHOSEN.items():
            line = line.replace(found, chosen)
        for name, rest in re.findall(rf"(?:^|[\s(])tandem ({NAME})(?![\w|])([^\n]*)", line):
            arguments = shlex.split(rest, comments=True)
            ends = [place for place, argument in enumerate(arguments) if argument in ENDS]
            yield name, arguments[: min(ends, default=None)]


def without_files(arguments: list[str]) -> list[str]:
    """The arguments, but for the config file, which lies with the reader."""
    place = arguments.index("--config") if "--config" in arguments else len(arguments)
    return arguments[:place] + arguments[place + 2 :]


def test_command_lines_are_found_in_code_and_nowhere_else() -> None:
    text = """
Say tandem train --not-code, or `tandem serve`, or `tandem ope --home
HOME`.

    tandem data validate --data csv --path a.csv    # what is in it
    KEY=1 ray job submit -- \\
        tandem train --workers 2 &

```sh
version=$(tandem cycle --config c.yaml --json | tail -1)
```
"""
    assert list(commands(text)) == [
        ("data validate", ["--data", "csv", "--path", "a.csv"]),
        ("train", ["--workers", "2"]),
        ("cycle", ["--config", "c.yaml", "--json"]),
        ("ope", ["--home", "HOME"]),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_program_takes_the_command_lines_of_a_page(page: Path) -> None:
    for name, arguments in commands(page.read_text(encoding="utf-8")):
        try:
            parse(name, [argument for argument in without_files(arguments) if argument != "--json"])
        except ConfigError as error:
            pytest.fail(f"tandem {name} {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_takes_the_config_files_of_a_page(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        values = yaml.safe_load(block)
        if FOREIGN.isdisjoint(values):
            refused = [error for name in COMMANDS if (error := refusal(name, values)) is not None]
            assert len(refused) < len(COMMANDS), "\n".join([block, *refused])


def refusal(name: str, values: object) -> str | None:
    try:
        parse_config(COMMANDS[name].options(), values)
    except ConfigError as error:
        return f"{name}: {error}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_and_tests_that_a_page_runs_are_there(page: Path) -> None:
    for line in lines(page.read_text(encoding="utf-8")):
        for script, rest in re.findall(r"\bpython (benchmarks/\S+\.py)([^#]*)", line):
            options = re.findall(r"(?<!\S)--([a-z][\w-]*)", rest)
            source = (ROOT / script).read_text(encoding="utf-8")
            assert [option for option in options if f'"{option}"' not in source and f"--{option}" not in source] == []
        for file, rest in re.findall(r"pytest .*?(tests/\S+\.py)([^#]*)", line):
            source = (ROOT / file).read_text(encoding="utf-8")
            tests = re.findall(r"^def test_\w+|^@pytest.mark.parametrize.*", source, re.MULTILINE)
            for wanted in re.findall(r"-k (\w+)", rest):
                assert any(wanted in test for test in tests), f"{file} has no test of {wanted}"
