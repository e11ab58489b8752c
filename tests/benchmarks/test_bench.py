"""What `make bench` runs, one script after the other, asks for nothing that it is not given."""

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lines_of_make_bench() -> list[str]:
    """Scripts with their arguments."""
    told = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (loop,) = re.findall(r"^for file in (.+); do \S+/python \$file \|\| exit 1; done$", told, re.MULTILINE)
    alone = re.findall(r"^\S+/python (benchmarks/.+)$", told, re.MULTILINE)
    quality = {str(file.relative_to(ROOT)) for file in (ROOT / "benchmarks/quality").glob("*.py")}
    assert quality == {shlex.split(line)[0] for line in [*loop.split(), *alone] if "/quality/" in line}
    return [*loop.split(), *alone]


class Parsed(Exception):
    """The script has read its options."""


@pytest.mark.parametrize("line", lines_of_make_bench())
def test_a_script_runs_with_the_arguments_it_is_given(line: str, monkeypatch: pytest.MonkeyPatch):
    """As far as its options have been read, which is before anything is computed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser) -> Any:
        parse(self)
        raise Parsed

    file, *given = shlex.split(line)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [file, *given])
    monkeypatch.setattr(sys, "path", [str((ROOT / file).parent), *sys.path])
    with patch.dict(os.environ), pytest.raises(Parsed):
        runpy.run_path(str(ROOT / file), run_name="__main__")
