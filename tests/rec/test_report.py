"""A run's report shows what the run left."""

import json
from pathlib import Path
from typing import Any

import pytest

from rec.errors import DataError
from rec.report import LOOP_FILE, write_report

RUN = {
    "data": {"name": "instatok", "sha256": "5" * 64},
    "versions": {"python": "3.11"},
    "seed": 0,
    "config": {"seed": 0},
}


def test_a_search_of_agents_is_no_run_on_data(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "data": {}}), encoding="utf-8")
    with pytest.raises(DataError, match=r"a search of agents, whose report is search\.html") as raised:
        write_report(tmp_path)
    assert raised.value.file == str(tmp_path)


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "interval": {"low": value - 0.1, "high": value + 0.1}}


def day(number: int, *cycles: dict[str, Any]) -> dict[str, Any]:
    reward = {"value": 0.9, "std_error": 0.05}
    return {"day": number, "version": "first", "reward": reward, "true_value": 0.875, "cycles": list(cycles)}


def test_days_of_the_loop_are_shown_with_what_was_estimated_and_what_is_true(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    assert "The loop" not in write_report(tmp_path).read_text(encoding="utf-8")
    waits = {"status": "waiting", "reasons": ["nothing new"], "challenger": None, "poisoned": False}
    waits |= {"comparison": None, "gain": None, "true_value": None}
    refused = {"status": "refused", "reasons": ["it earns less"], "challenger": "second", "poisoned": True}
    refused |= {"comparison": {"challenger": estimate(0.7)}, "true_value": 0.75}
    refused |= {"gain": {"difference": -0.2, "low": -0.3, "high": -0.1}}
    (tmp_path / LOOP_FILE).write_text(json.dumps({"days": [day(1, waits), day(2, refused)]}), encoding="utf-8")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The loop" in page
    for cell in ("nothing new", "poisoned second", "-0.2000 [-0.3000, -0.1000]", "-0.1250", "it earns less"):
        assert f"<td>{cell}</td>" in page
