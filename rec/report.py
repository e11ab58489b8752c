"""A run's report: one HTML file that needs no network, made from what the run left in its folder.

run.json            config, seed, versions, data
FIT/epochs.jsonl    the metrics of each epoch of each fit
evaluation.json     what `tandem evaluate` printed, where it was evaluated
sessions.json       rewards of sessions over HTTP, and an example slate, where it was served
loop.json           days of a service that learns from its log, where there were such
"""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rec.errors import DataError
from rec.metrics import format_difference, format_estimate
from rec.run_files import EPOCHS_FILE, RUN_FILE
from rec.storage import replace_file

EVALUATION_FILE: Final = "evaluation.json"
SESSIONS_FILE: Final = "sessions.json"
LOOP_FILE: Final = "loop.json"
REPORT_FILE: Final = "report.html"

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .75rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; }
"""


def write_report(run: Path) -> Path:
    """Writes report.html into a run's folder from what else is there; returns its path.

    Raises: DataError: naming the file, when the folder holds no run or a file that is damaged.
    """
    record = _read(run / RUN_FILE)
    if record is None:
        raise DataError("no run here; give the folder of one, as `tandem train` prints it", file=str(run / RUN_FILE))
    if not {"name", "sha256"} <= record["data"].keys():
        raise DataError(
            "a run on data is required, as `tandem train` leaves it; this is a search of agents, whose report is "
            "search.html",
            file=str(run),
        )
    parts = [f"<h1>Run {html.escape(run.name)}</h1>", _about(record)]
    for title, section in (
        ("Learning curves", _learning_curves(run)),
        ("Offline evaluation", _evaluation(_read(run / EVALUATION_FILE))),
        ("Sessions over HTTP", _sessions(_read(run / SESSIONS_FILE))),
        ("The loop", _loop(_read(run / LOOP_FILE))),
        ("Config", _config(record)),
    ):
        body = "".join(section)
        if body:
            parts.append(f"<h2>{title}</h2>{body}")
    target = run / REPORT_FILE
    replace_file(target, page(f"Tandem run {run.name}", parts).encode())
    return target


def page(title: str, parts: Sequence[str]) -> str:
    """A page of HTML that needs no network. Args: parts: HTML, plots of `drawn` among them."""
    # Plotly's own program is 4.8 MB, so a page has it only where it draws something.
    script = f"<script>{get_plotlyjs()}</script>" if any("Plotly.newPlot(" in part for part in parts) else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"{script}</head><body>{''.join(parts)}</body></html>"
    )


def _read(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"not readable as JSON: {error}; delete it to leave its part out", file=str(file)) from error


def _about(record: Mapping[str, Any]) -> str:
    data = record["data"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"<p>Data {html.escape(str(data['name']))} ({str(data['sha256'])[:12]}), seed {record['seed']}; {versions}.</p>"
    )


def _learning_curves(run: Path) -> Iterator[str]:
    for file in sorted(run.glob(f"*/{EPOCHS_FILE}")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not lines:
            continue
        figure = go.Figure()
        epochs = [line["epoch"] for line in lines]
        names = [name for name in lines[0] if name != "epoch" and not name.endswith("_s")]
        for name in names:
            axis = "y" if name == "loss" else "y2"
            figure.add_scatter(x=epochs, y=[line.get(name) for line in lines], name=name, yaxis=axis)
        figure.update_layout(
            title=file.parent.name,
            xaxis={"title": "epoch", "dtick": 1},
            yaxis={"title": "loss"},
            yaxis2={"title": "validation", "overlaying": "y", "side": "right", "rangemode": "tozero"},
        )
        yield drawn(figure)


def _evaluation(evaluation: Any) -> Iterator[str]:
    if evaluation is None:
        return
    split, models = evaluation["split"], evaluation["models"]
    sizes = f"{split['n_users']:,} users, {split['n_rows']:,} rows of the {split['period']} period"
    yield f"<p>{sizes}; ± standard error.</p>"
    metrics = list(next(iter(models.values())))
    rows = [[name, *(format_estimate(values[metric]) for metric in metrics)] for name, values in models.items()]
    yield table(["model", *metrics], rows)
    rows = [[f"{pair['a']} - {pair['b']}", pair["metric"], format_difference(pair)] for pair in evaluation["paired"]]
    yield "<p>Differences paired by user:</p>"
    yield table(["models", "metric", "difference [95% interval]"], rows)
    if "calibration" in evaluation:
        yield drawn(_reliability(evaluation["calibration"]))


def _reliability(calibration: Any) -> go.Figure:
    """Predicted probabilities beside what happened; on the diagonal they come true."""
    bins = calibration["bins"]
    predicted, observed = ([row[name] for row in bins] for name in ("predicted", "observed"))
    most = max(*predicted, *(row["high"] for row in bins))
    figure = go.Figure()
    figure.add_scatter(x=[0, most], y=[0, most], name="comes true", mode="lines", line={"dash": "dot"})
    figure.add_scatter(
        x=predicted,
        y=observed,
        name="the ranker",
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [row["high"] - row["observed"] for row in bins],
            "arrayminus": [row["observed"] - row["low"] for row in bins],
        },
    )
    told = f"{calibration['expected_error']:.4f} ({calibration['by_chance']:.4f} by chance)"
    figure.update_layout(
        title=f"Reliability of the ranker's probabilities; expected calibration error {told}",
        xaxis={"title": "predicted"},
        yaxis={"title": "observed, with 95% interval"},
    )
    return figure


def _sessions(sessions: Any) -> Iterator[str]:
    if sessions is None:
        return
    rewards = sessions["rewards"]
    figure = go.Figure(
        go.Bar(
            x=[row["policy"] for row in rewards],
            y=[row["mean"] for row in rewards],
            error_y={"type": "data", "array": [1.96 * (row["std_error"] or 0.0) for row in rewards]},
        )
    )
    figure.update_layout(title="Reward of a session, mean and 95% interval", yaxis={"title": "reward"})
    yield drawn(figure)
    slate = sessions["slate"]
    labels = [f"{item['position'] + 1}. {item['title'] or item['item_id']}" for item in slate["items"]]
    figure = go.Figure(
        go.Bar(
            x=[item["propensity"] for item in slate["items"]],
            y=labels,
            orientation="h",
            text=[item["source"] for item in slate["items"]],
        )
    )
    figure.update_layout(
        title=f"One slate: with which probability each item stands where it does ({slate['user_id']})",
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": "propensity, given the items above"},
    )
    yield drawn(figure)


def _loop(loop: Any) -> Iterator[str]:
    """Days of a service: what a visit was worth on each, and what was estimated of challengers beforehand."""
    if loop is None:
        return
    days = loop["days"]
    judged = [(day, cycle) for day in days for cycle in day["cycles"] if cycle["comparison"] is not None]
    figure = go.Figure()
    number = [day["day"] for day in days]
    figure.add_scatter(x=number, y=[day["true_value"] for day in days], name="what serves, true value")
    figure.add_scatter(
        x=number,
        y=[day["reward"]["value"] for day in days],
        error_y={"type": "data", "array": [1.96 * day["reward"]["std_error"] for day in days]},
        mode="markers",
        name="what visits earned",
    )
    for poisoned, name in ((False, "challenger"), (True, "poisoned challenger")):
        own = [(day, cycle) for day, cycle in judged if cycle["poisoned"] == poisoned]
        estimates = [cycle["comparison"]["challenger"] for _, cycle in own]
        places = [day["day"] + 0.1 for day, _ in own]
        figure.add_scatter(
            x=places,
            y=[estimate["value"] for estimate in estimates],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [estimate["interval"]["high"] - estimate["value"] for estimate in estimates],
                "arrayminus": [estimate["value"] - estimate["interval"]["low"] for estimate in estimates],
            },
            mode="markers",
            name=f"{name}, estimate before any promotion",
        )
        figure.add_scatter(
            x=places,
            y=[cycle["true_value"] for _, cycle in own],
            mode="markers",
            marker={"symbol": "x"},
            name=f"{name}, true value",
        )
    figure.update_layout(
        title="Reward of a visit, with 95% intervals",
        xaxis={"title": "day", "dtick": 1},
        yaxis={"title": "reward"},
    )
    yield "<p>Every day people use a service over HTTP. Then a cycle trains a challenger on what was known before the "
    yield "day, estimates from the day's log what it would have earned, and promotes it if that is more beyond chance."
    yield "</p>"
    yield drawn(figure)
    rows = []
    for day in days:
        for cycle in day["cycles"]:
            estimated = "" if cycle["gain"] is None else format_difference(cycle["gain"])
            true = "" if cycle["true_value"] is None else f"{cycle['true_value'] - day['true_value']:+.4f}"
            challenger = f"poisoned {cycle['challenger']}" if cycle["poisoned"] else cycle["challenger"] or "none"
            told = (day["version"], challenger, estimated, true, cycle["status"], "; ".join(cycle["reasons"]))
            rows.append([str(day["day"]), *told])
    yield table(["day", "served", "challenger", "estimated gain [95%]", "true gain", "", "why"], rows)


def _config(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"<pre class=scroll>{html.escape(json.dumps(record['config'], indent=1))}</pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def drawn(figure: go.Figure) -> str:
    """A plot as HTML, for a page of `page`."""
    figure.update_layout(margin={"t": 48, "b": 48}, height=360, legend={"orientation": "h"})
    return figure.to_html(full_html=False, include_plotlyjs=False)
