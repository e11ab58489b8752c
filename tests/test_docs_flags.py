"""Every option that the documentation shows is one of the command it stands with."""

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from rec.cli import main
from rec.cli.commands import COMMANDS
from rl.instatok.slate_log import REWARD_OF

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FLAG = re.compile(r"(?<![\w-])--[a-z](?:[\w.-]*\w)?")
OF_ALL = {"--config", "--json", "--help"}
# Of a command that stands on a line of its own.
REWARDS_OF_A_COMMAND = re.compile(r"^    tandem .*--rewards((?: [a-z]\w* [-+.\d]+)+)", re.MULTILINE)
# What pages say of programs that are not ours.
FOREIGN = {
    "--index-url",
    "--address",
    "--working-dir",
    "--generate",
    "--build-arg",
    "--head",
    "--dashboard-host",
    "--dashboard-port",
}


def help_of(name: str) -> str:
    """What a command says of its options."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*name.split(), "--help"])
    return told.getvalue()


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The options of each command."""
    return {name: set(FLAG.findall(help_of(name))) | OF_ALL for name in COMMANDS}


def unknown(text: str, flags: Mapping[str, set[str]], anywhere: set[str]) -> list[str]:
    """Options after `tandem NAME` that NAME does not have, and others that nothing has."""
    wrong = [flag for flag in FLAG.findall(text) if flag not in anywhere]
    for name, rest in re.findall(rf"tandem ({'|'.join(COMMANDS)})\b([^`\n]*)", text):
        wrong += [f"tandem {name} {flag}" for flag in FLAG.findall(rest) if flag not in flags[name]]
    return wrong


def test_a_misspelt_option_is_found(flags: Mapping[str, set[str]]) -> None:
    anywhere = set().union(*flags.values())
    assert unknown("`tandem train --workers 2`, `tandem models list --json`, `--epsilon`", flags, anywhere) == []
    assert unknown("tandem ope --workers 2", flags, anywhere) == ["tandem ope --workers"]
    assert unknown("`--off-policy.no-self-normalise`", flags, anywhere) == ["--off-policy.no-self-normalise"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_show_options_that_there_are(flags: Mapping[str, set[str]], page: Path) -> None:
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/**/*.py"))
    anywhere = set().union(*flags.values(), FLAG.findall(scripts), FOREIGN)
    assert unknown(page.read_text(encoding="utf-8"), flags, anywhere) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_to_try_say_what_all_that_simulated_people_do_is_worth(page: Path) -> None:
    """An action without a reward is refused, so a command that forgets one fails on the log of `tandem simulate`."""
    for told in REWARDS_OF_A_COMMAND.findall(page.read_text(encoding="utf-8")):
        words = told.split()
        assert dict(zip(words[::2], map(float, words[1::2]), strict=True)) == REWARD_OF
