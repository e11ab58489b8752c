"""The plot of estimates: what it shows, that it loads nothing, and that a page is written whole or not at all."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rec.errors import DataError
from rec.ope.estimate import Estimate, Interval
from rec.ope.plot import estimates_figure, ticks, write_plot


def estimate(name: str, value: float, interval: Interval | None) -> Estimate:
    return Estimate(value, 0.1, interval, n=10, n_clusters=5, ess=4.0, max_weight=2.0, support=1.0, estimator=name)


ESTIMATES = {
    "ips": estimate("ips", 1.0, Interval(0.75, 1.5, 0.9, "bootstrap")),
    "dr": estimate("dr", 2.0, Interval(1.0, 2.25, 0.9, "bootstrap")),
    "dm": estimate("dm", 3.0, None),
}


def test_values_and_both_ends_of_each_interval_are_shown():
    """Places on the page are one linear function of the values: points, ends, reference and ticks."""
    figure = ElementTree.fromstring(estimates_figure(ESTIMATES, "Value of <v1>", reference=0.5))
    texts = [text.text for text in figure.findall("text")]
    assert "Value of <v1>" in texts and "value, with 90% bootstrap interval" in texts
    groups = {group.findtext("text"): group for group in figure.findall("g")}
    assert list(groups) == ["ips", "dr", "dm"]  # the first estimator stands on top
    assert groups["ips"].findtext("title") == "ips: 1.0000\nn 10, users 5, ess 4, max weight 2.0"
    (dashed,) = [line for line in figure.findall("line") if "stroke-dasharray" in line.attrib]
    shown = {0.5: at(dashed, "x1")}
    for name, (low, value, high) in {"ips": (0.75, 1.0, 1.5), "dr": (1.0, 2.0, 2.25), "dm": (3.0, 3.0, 3.0)}.items():
        along, *ends = groups[name].findall("line")
        circle = groups[name].find("circle")
        places = [at(along, "x1"), at(circle, "cx"), at(along, "x2")]
        assert {at(end, "x1") for end in ends} == ({places[0], places[2]} if low < high else set())
        shown |= dict(zip((low, value, high), places, strict=True))
    shown |= {float(text.text): at(text, "x") for text in figure.findall("text") if number(text.text)}
    values, places = zip(*sorted(shown.items()), strict=True)
    slope, start = np.polyfit(values, places, 1)
    assert slope > 100 and len(values) >= 8
    np.testing.assert_allclose(places, start + slope * np.array(values), atol=0.02)


def at(element: ElementTree.Element | None, name: str) -> float:
    assert element is not None
    return float(element.attrib[name])


def number(text: str | None) -> bool:
    return re.fullmatch(r"-?[\d.]+", text or "") is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (-0.05, 0.07, [-0.04, -0.02, 0, 0.02, 0.04, 0.06]),
        (990, 1010.5, [990, 995, 1000]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]):
    np.testing.assert_allclose(ticks(low, high)[: len(expected)], expected, atol=1e-12)
    assert len(ticks(low, high)) <= 7


def test_one_value_without_an_interval_is_drawn():
    assert "<circle" in estimates_figure({"dm": estimate("dm", 0.0, None)}, "Value")


def test_a_page_loads_nothing_and_is_small(tmp_path: Path):
    write_plot(ESTIMATES, "Value", tmp_path / "ope.html")
    page = (tmp_path / "ope.html").read_text(encoding="utf-8")
    assert "<circle" in page and len(page) < 20_000
    assert not re.search(r"<(?:script|link|img|iframe)\b", page)


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "ope.html"
    file.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left") as refused:
        write_plot(ESTIMATES, "Value", file)
    assert refused.value.file == str(file)
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["ope.html"]
