"""Estimates with their intervals, as one HTML file that needs no network."""

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rec.errors import DataError
from rec.ope.estimate import Estimate
from rec.ope.support import shown_weight
from rec.report import page
from rec.storage import replace_file

# In pixels, of a picture that is drawn as wide as its page.
WIDTH: Final = 800
ROW: Final = 36
TOP: Final = 40
CHARACTER: Final = 8
TICKS: Final = 6
DIGITS: Final = 6


def write_plot(estimates: Mapping[str, Estimate], title: str, path: Path, *, reference: float | None = None) -> None:
    """Writes `estimates_figure` as a whole page: the old file stays until the new one is complete.

    Args: estimates: by estimator. title: above it. path: the HTML file. reference: what the logging policy earned.
    Raises: DataError: naming the file, when it cannot be written.
    """
    text = page(title, [estimates_figure(estimates, title, reference=reference)])
    try:
        replace_file(path.resolve(), text.encode())
    except OSError as error:
        raise DataError(
            f"the plot could not be written: {error.strerror or error}; make room, or choose another place",
            file=str(path),
        ) from error


def estimates_figure(estimates: Mapping[str, Estimate], title: str, *, reference: float | None = None) -> str:
    """An SVG with one line an estimator, its interval around its value; arguments as of `write_plot`.

    Sample and effective sample size are told where the pointer rests on a line.
    """
    bounds = {name: _bounds(estimate) for name, estimate in estimates.items()}
    low, high = _range(
        [*(end for ends in bounds.values() for end in ends), *([] if reference is None else [reference])]
    )
    left, bottom = CHARACTER * max(map(len, estimates)) + 16, TOP + ROW * len(estimates)

    def place(value: float) -> float:
        return round(left + (WIDTH - 32 - left) * (value - low) / (high - low), 2)

    parts = [_text(left, 20, title, "start", weight=600)]
    for tick in ticks(low, high):
        parts.append(_line(place(tick), TOP, place(tick), bottom, opacity=0.2))
        parts.append(_text(place(tick), bottom + 18, f"{tick:.{DIGITS}g}", "middle"))
    if reference is not None:
        parts.append(_line(place(reference), TOP - 4, place(reference), bottom, dashed=True))
        parts.append(_text(place(reference), TOP - 6, "logging policy", "middle"))
    for row, (name, estimate) in enumerate(estimates.items()):
        y, (down, up) = TOP + ROW * row + ROW // 2, bounds[name]
        parts += [
            f"<g><title>{html.escape(_told(name, estimate))}</title>",
            _text(left - 12, y + 5, name, "end"),
            _line(place(down), y, place(up), y),
            *(_line(place(end), y - 5, place(end), y + 5) for end in {down, up} - {estimate.value}),
            f'<circle cx="{place(estimate.value)}" cy="{y}" r="5"/></g>',
        ]
    around = [estimate.interval for estimate in estimates.values() if estimate.interval is not None]
    levels = sorted({f"{interval.level:.0%} {interval.method.replace('_', ' ')}" for interval in around})
    below = f"value, with {', '.join(levels)} interval" if levels else "value"
    parts.append(_text((left + WIDTH - 32) / 2, bottom + 40, below, "middle"))
    style = "width:100%;font:13px system-ui,sans-serif;fill:currentColor;stroke:none"
    return f'<svg viewBox="0 0 {WIDTH} {bottom + 52}" role="img" style="{style}">{"".join(parts)}</svg>'


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, at most TICKS + 1: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [step * count for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _bounds(estimate: Estimate) -> tuple[float, float]:
    around = estimate.interval
    return (estimate.value, estimate.value) if around is None else (around.low, around.high)


def _range(values: list[float]) -> tuple[float, float]:
    """A little more than what the values take."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def _told(name: str, estimate: Estimate) -> str:
    sizes = f"n {estimate.n:,}, users {estimate.n_clusters:,}, ess {estimate.ess:,.0f}"
    return f"{name}: {estimate.value:.4f}\n{sizes}, max weight {shown_weight(estimate.max_weight)}"


def _text(x: float, y: float, text: str, anchor: str, *, weight: int = 400) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{html.escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, *, opacity: float = 1, dashed: bool = False) -> str:
    stroke = 'stroke="currentColor" stroke-width="1.5"' + (' stroke-dasharray="3"' if dashed else "")
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {stroke} opacity="{opacity}"/>'
