"""The plot of estimates: what it shows, that it loads nothing, and that a page is written whole or not at all."""

import re
from pathlib import Path

import pytest

from rec.errors import DataError
from rec.ope.estimate import Estimate, Interval
from rec.ope.plot import estimates_figure, write_plot


def estimate(name: str, value: float, interval: Interval | None) -> Estimate:
    return Estimate(value, 0.1, interval, n=10, n_clusters=5, ess=4.0, max_weight=2.0, support=1.0, estimator=name)


ESTIMATES = {
    "ips": estimate("ips", 1.0, Interval(0.75, 1.5, 0.9, "bootstrap")),
    "dr": estimate("dr", 2.0, Interval(1.0, 2.25, 0.9, "bootstrap")),
    "dm": estimate("dm", 3.0, None),
}


def test_values_and_both_ends_of_each_interval_are_shown():
    figure = estimates_figure(ESTIMATES, "Value of v1", reference=0.5)
    (drawn,) = figure.data
    low = [value - down for value, down in zip(drawn.x, drawn.error_x.arrayminus, strict=True)]
    high = [value + up for value, up in zip(drawn.x, drawn.error_x.array, strict=True)]
    shown = {name: ends for name, *ends in zip(drawn.y, low, drawn.x, high, strict=True)}
    assert shown == {"ips": [0.75, 1.0, 1.5], "dr": [1.0, 2.0, 2.25], "dm": [3.0, 3.0, 3.0]}
    assert not drawn.error_x.symmetric
    assert drawn.y[-1] == "ips"  # the first estimator stands on top
    assert figure.layout.title.text == "Value of v1" and "90% bootstrap" in figure.layout.xaxis.title.text
    assert [line.x0 for line in figure.layout.shapes] == [0.5]


def test_a_page_loads_nothing(tmp_path: Path):
    write_plot(ESTIMATES, "Value", tmp_path / "ope.html")
    page = (tmp_path / "ope.html").read_text(encoding="utf-8")
    opening = re.findall(r"<script[^>]*>", page)
    assert opening and not any("src" in tag for tag in opening)
    assert not re.search(r"<(?:link|img|iframe)\b[^>]*\b(?:href|src)=", page)


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
