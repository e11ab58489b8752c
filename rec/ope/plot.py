"""Estimates with their intervals, as one HTML file that needs no network."""

from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go

from rec.errors import DataError
from rec.ope.estimate import Estimate
from rec.ope.support import shown_weight
from rec.storage import replace_file


def write_plot(estimates: Mapping[str, Estimate], title: str, path: Path, *, reference: float | None = None) -> None:
    """Writes `estimates_figure` as a whole page: the old file stays until the new one is complete.

    Args: estimates: by estimator. title: above it. path: the HTML file. reference: what the logging policy earned.
    Raises: DataError: naming the file, when it cannot be written.
    """
    page = estimates_figure(estimates, title, reference=reference).to_html(include_plotlyjs=True)
    try:
        replace_file(path.resolve(), page.encode())
    except OSError as error:
        raise DataError(
            f"the plot could not be written: {error.strerror or error}; make room, or choose another place",
            file=str(path),
        ) from error


def estimates_figure(estimates: Mapping[str, Estimate], title: str, *, reference: float | None = None) -> go.Figure:
    """One line an estimator, its interval around its value; arguments as of `write_plot`."""
    names = list(estimates)[::-1]
    shown = [estimates[name] for name in names]
    around = [estimate.interval for estimate in shown]
    up = [0.0 if i is None else i.high - e.value for e, i in zip(shown, around, strict=True)]
    down = [0.0 if i is None else e.value - i.low for e, i in zip(shown, around, strict=True)]
    figure = go.Figure(
        go.Scatter(
            x=[estimate.value for estimate in shown],
            y=names,
            mode="markers",
            marker={"size": 10},
            error_x={"type": "data", "symmetric": False, "array": up, "arrayminus": down},
            text=[
                f"n {e.n:,}, users {e.n_clusters:,}, ess {e.ess:,.0f}, max weight {shown_weight(e.max_weight)}"
                for e in shown
            ],
            hovertemplate="%{y}: %{x:.4f}<br>%{text}<extra></extra>",
        )
    )
    if reference is not None:
        figure.add_vline(x=reference, line_dash="dot", annotation_text="logging policy")
    levels = sorted({f"{i.level:.0%} {i.method.replace('_', ' ')}" for i in around if i is not None})
    figure.update_layout(
        title=title,
        xaxis={"title": f"value, with {', '.join(levels)} interval" if levels else "value"},
        yaxis={"automargin": True},
        height=160 + 48 * len(names),
        margin={"t": 64},
    )
    return figure
