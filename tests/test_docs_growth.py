"""The figures of docs/scale.md on growth follow from what was measured, by the arithmetic that it shows."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXT = " ".join((ROOT / "docs" / "scale.md").read_text(encoding="utf-8").split())
PARTS = sorted(path.stem.removeprefix("growth_") for path in ROOT.glob("benchmarks/results/growth_*.json"))
# A line that explains less of what was measured is none.
GOOD = 0.9
DOLLARS_A_CORE_HOUR = 0.05
GIB_A_CORE = 4
MACHINE_GIB = 256


def result(part: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"growth_{part}.json").read_text(encoding="utf-8"))


def slope(part: str, axis: str, of: str) -> float | None:
    """Seconds, or GiB, for a million more; None where no straight line was seen."""
    (line,) = [line for line in result(part)["lines"] if (line["axis"], line["of"]) == (axis, of)]
    if line["r2"] < GOOD or line["per_million"] <= 0:
        return None
    return line["per_million"] / (1024 if of == "peak_mib" else 1)


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(part: str, axis: str) -> str:
    seconds, gib = slope(part, axis, "processor_s"), slope(part, axis, "peak_mib")
    told = [f"{short(value)} {unit}" for value, unit in ((seconds, "s"), (gib, "GiB")) if value is not None]
    return ", ".join(told) or "-"


def at_a_billion(part: str) -> str:
    """Processor time, its price, memory of a billion events, the price of holding it, and how many fit a machine."""
    seconds, gib = slope(part, "events", "processor_s"), slope(part, "events", "peak_mib")
    assert seconds is not None and gib is not None
    hours, cores = 1000 * seconds / 3600, 1000 * gib / GIB_A_CORE
    held = f"{short(cores)} cores, ${short(cores * hours * DOLLARS_A_CORE_HOUR)}"
    return (
        f"{short(1000 * seconds)} s = {short(hours)} hours, ${short(hours * DOLLARS_A_CORE_HOUR)} | "
        f"{short(1000 * gib / 1024)} TiB | {held} | {short(MACHINE_GIB / gib)} million"
    )


@pytest.mark.parametrize("part", PARTS)
def test_slopes_are_those_measured(part: str) -> None:
    cells = " | ".join(cell(part, axis) for axis in ("users", "items", "events"))
    assert f"| `{part}` | {cells} |" in TEXT


@pytest.mark.parametrize("part", ["log", "ope", "train"])
def test_a_billion_events_follow_from_the_slopes(part: str) -> None:
    assert f"| `{part}` | {at_a_billion(part)} |" in TEXT


def test_candidates_for_everybody_follow_from_their_rates() -> None:
    for rate in (7090, 1018):
        seconds = 200e6 / rate
        hours, dollars = seconds / 3600, seconds / 3600 * DOLLARS_A_CORE_HOUR
        assert f"200 million / {rate:,} = {seconds:,.0f} s = {hours:.1f} hours, ${dollars:.2f}" in TEXT


def test_training_over_the_catalogue_follows_from_its_slopes() -> None:
    seconds, gib = slope("train", "items", "processor_s"), slope("train", "items", "peak_mib")
    assert seconds is not None and gib is not None
    hours = f"100 x {short(seconds)} s = {100 * seconds / 3600:.1f} hours"
    assert f"{hours} and 100 x {short(gib)} GiB = {100 * gib:.0f} GiB" in TEXT


def test_parts_of_all_kinds_were_measured() -> None:
    assert PARTS == ["candidates", "evaluate", "log", "ope", "train"]
