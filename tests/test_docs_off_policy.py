"""The examples of docs/off-policy.md and the log of docs/data.md run, and print what the pages say of them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec.data.rounds import Rounds
from rec.propensity import PropensityWarning

PAGE = Path(__file__).parents[1] / "docs" / "off-policy.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    example, of_obp, of_slates, without = _examples(PAGE)
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    value = {words[0]: float(words[1]) for words in printed}
    width = {words[0]: float(words[3].rstrip("]")) - float(words[2].strip("[,")) for words in printed[:-1]}
    assert value["truth"] == 0.2685
    assert value["dm"] == 0.131 and width["dm"] == 0.0
    for name in ("ips", "snips", "dr"):
        assert abs(value[name] - value["truth"]) < width[name] / 2
    assert width["snips"] < width["ips"] and width["dr"] < width["ips"]
    assert all(words[-1] == "775" for words in printed[:-1])
    exec(compile(of_obp, str(PAGE), "exec"), names)
    assert float(capsys.readouterr().out) == value["snips"]
    exec(compile(of_slates, str(PAGE), "exec"), names)
    worth, target = names["worth"], names["target"]
    below = [target[i] * (worth[i] + np.delete(target, i) @ np.delete(worth, i) / (1 - target[i])) for i in range(5)]
    for estimate in names["both"].values():
        assert abs(estimate.value - sum(below)) < 3 * estimate.std_error
    with pytest.warns(PropensityWarning):
        exec(compile(without, str(PAGE), "exec"), names)
    assert abs(float(capsys.readouterr().out) - value["truth"]) < width["snips"] / 2


def test_the_log_is_written_and_read_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = _examples(PAGE.parent / "data.md")
    names: dict[str, object] = {}
    exec(compile(example, "docs/data.md", "exec"), names)
    rounds = names["rounds"]
    assert isinstance(rounds, Rounds) and rounds.reward.tolist() == [1.0]


def test_the_search_over_capping_and_alpha_found_what_the_page_says() -> None:
    stored = json.loads((PAGE.parents[1] / "benchmarks/results/tune_two_stage.json").read_text(encoding="utf-8"))
    page = (PAGE.parent / "off-policy-results.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ((?:two|one)-stage \w+@10) \| (.*) \|$", page, re.MULTILINE))
    assert len(rows) == 5
    for metric, row in rows.items():
        of_both = {each["model"]: each for each in stored["summary"] if each["metric"] == metric}
        difference = stored["paired"][metric]
        told = [of_both[model][what] for model in ("found", "paper") for what in ("mean", "std_error")]
        told += [difference[what] for what in ("difference", "std_error", "low", "high")]
        assert [float(number) for number in re.findall(r"[+-]?\d*\.\d+", row)] == [
            round(100 * each, 2) for each in told
        ]


def _examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
