"""What a search came to: the best config, a table, plots of what mattered, and how to run it again.

best.yaml     the config of the best trial, as `tandem train --config` takes it, or `tandem rl train`
trials.csv    a row for each trial, the best first
search.html   the same with plots
"""

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.importance import get_param_importances

from rec.config import default_home
from rec.metrics import format_estimate, mean_over_users
from rec.report import drawn, page, table
from rec.storage import replace_file
from tune.search import SEARCH_FILE, Search, write_config
from tune.spaces import Learner, Space
from tune.trials import Trial, Trials

BEST_FILE: Final = "best.yaml"
TABLE_FILE: Final = "trials.csv"
REPORT_FILE: Final = "search.html"
COMMANDS: Final[Mapping[Learner, str]] = {"train": "train", "dqn": "rl train dqn", "drr": "rl train drr"}
# Below it an importance says more about chance than about the field.
MIN_TRIALS: Final = 10


def write_report(search: Search, trials: Sequence[Trial], home: str) -> dict[str, Any]:
    """Writes best.yaml, trials.csv and search.html into the search's folder.

    Args: trials: the best first, which finished. home: that the search was made in, for the commands that follow it.
    Returns: what `tandem tune` prints in JSON.
    """
    best, folder = trials[0], search.folder
    assert best.measured is not None
    write_config(folder / BEST_FILE, search.space.configured(search.base, best.values))
    rows(trials).to_csv(folder / TABLE_FILE, index=False)
    importance = importances(search.space, trials)
    near, (again, use) = len(indistinguishable(search.trials, trials)), again_commands(search, home)
    replace_file(folder / REPORT_FILE, _page(search, trials, near, importance, again, use).encode())
    states = [trial.state for trial in trials]
    return {
        "run_dir": str(folder),
        "best": {"trial": best.name, "values": best.values, **asdict(best.measured)},
        "config": str(folder / BEST_FILE),
        "report": str(folder / REPORT_FILE),
        "trials": {state: states.count(state) for state in ("finished", "stopped", "failed")},
        "importance": importance,
        "indistinguishable": near,
        "again": again,
        "use": use,
    }


def again_commands(search: Search, home: str) -> tuple[str, str]:
    """How to search again, and how to use what was found, in the same home."""
    # A folder is named as that of the config is, so that both are found from anywhere.
    place = home if "://" in home else str(Path(home).resolve())
    where = [] if home == default_home() else ["--home", place]

    def line(command: str, file: str) -> str:
        return shlex.join(["tandem", *command.split(), "--config", str(search.folder / file), *where])

    return line("tune", SEARCH_FILE), line(COMMANDS[search.space.learner], BEST_FILE)


def rows(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row for each trial."""
    return pd.DataFrame(
        [
            {
                "trial": trial.name,
                "state": trial.state,
                **trial.values,
                **(asdict(trial.measured) if trial.measured else {}),
                "seconds": trial.seconds,
                "error": trial.error,
            }
            for trial in trials
        ]
    )


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """How much of the difference between the best tenth of the trials and the others each field explains.

    PED-ANOVA, shares that sum to 1; nothing for fewer than MIN_TRIALS trials, or one field.

    Source: Watanabe, Bansal and Hutter (2023), doi:10.24963/ijcai.2023/488.
    """
    finished = [trial for trial in trials if trial.measured is not None]
    if len(finished) < MIN_TRIALS or len(space.parameters) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        assert trial.measured is not None
        study.add_trial(
            optuna.trial.create_trial(
                params=space.encoded(trial.values),
                distributions=space.distributions(),
                value=trial.measured.score,
            )
        )
    return {name: float(share) for name, share in get_param_importances(study).items()}


def indistinguishable(kept: Trials, trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials whose value is within two standard errors of the best's, itself among them.

    The error is of the difference, paired by user or session. Where the best is a policy it is of its value alone,
    which is generous: trials are judged by the same rows.
    """
    best, ours = trials[0].measured, kept.each(trials[0].name)
    assert best is not None

    def error(trial: Trial) -> float | None:
        theirs = None if ours is None else kept.each(trial.name)
        if ours is None or theirs is None or len(ours) != len(theirs):
            return best.std_error
        return mean_over_users(ours - theirs).std_error

    return [
        trial
        for trial in trials
        if trial.measured is not None and best.value - trial.measured.value <= 2 * (error(trial) or 0.0)
    ]


def _page(
    search: Search, trials: Sequence[Trial], near: int, importance: Mapping[str, float], again: str, use: str
) -> str:
    best = trials[0]
    assert best.measured is not None
    names = list(search.space.parameters)
    parts = [
        f"<h1>Search {html.escape(search.folder.name)}</h1>",
        f"<p>Best of {len(trials)} trials: {best.measured.metric} {format_estimate(asdict(best.measured))} on "
        f"validation, by {html.escape(str(best.values))}. {near} trials, itself among them, are within two "
        "standard errors of it: of the difference, paired by user or session; of a policy, of its value alone. "
        "The best of many estimates is too high: a test tells what it is worth.</p>",
        f"<p>Use it: <code>{html.escape(use)}</code><br>Search again: <code>{html.escape(again)}</code></p>",
        "<h2>Trials</h2>",
        table(
            ["trial", "state", *names, best.measured.metric, "n", "score", "seconds"],
            [_row(trial, names) for trial in trials],
        ),
        "<h2>What goes with a high score</h2>",
        drawn(parallel_coordinates(search.space, trials)),
    ]
    if importance:
        parts.append(drawn(_bars(importance)))
    else:
        parts.append(f"<p>How much a field matters is told beside others, from {MIN_TRIALS} trials that finished.</p>")
    return page(f"Tandem search {search.folder.name}", parts)


def _row(trial: Trial, names: Sequence[str]) -> list[str]:
    found = trial.measured
    judged = ["", "", ""]
    if found is not None:
        judged = [format_estimate(asdict(found)), f"{found.n:,.0f}", f"{found.score:.4f}"]
    seconds = "" if trial.seconds is None else f"{trial.seconds:.0f}"
    return [trial.name, trial.state, *(_number(trial.values[name]) for name in names), *judged, seconds]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parallel_coordinates(space: Space, trials: Sequence[Trial]) -> go.Figure:
    """A line for each finished trial through its values, coloured by score."""
    finished = [trial for trial in trials if trial.measured is not None]
    scores = [trial.measured.score for trial in finished if trial.measured is not None]
    axes = [_axis(space, name, [trial.values[name] for trial in finished]) for name in space.parameters]
    axes.append({"label": "score", "values": scores})
    line = {"color": scores, "colorscale": "Viridis", "showscale": True}
    return go.Figure(go.Parcoords(dimensions=axes, line=line))


def _axis(space: Space, name: str, values: Sequence[Any]) -> dict[str, Any]:
    parameter, label = space.parameters[name], name.rsplit(".", 1)[-1]
    if parameter.choices:
        texts = [json.dumps(choice) for choice in parameter.choices]
        places = [texts.index(json.dumps(value)) for value in values]
        return {"label": label, "values": places, "tickvals": list(range(len(texts))), "ticktext": texts}
    if not parameter.log:
        return {"label": label, "values": list(values)}
    # Plotly has no logarithmic axis here.
    assert parameter.low is not None and parameter.high is not None
    ends = np.linspace(np.log10(parameter.low), np.log10(parameter.high), 5)
    ticks = {"tickvals": ends.tolist(), "ticktext": [f"{10**end:.3g}" for end in ends]}
    return {"label": label, "values": np.log10(values).tolist(), "range": [ends[0], ends[-1]], **ticks}


def _bars(importance: Mapping[str, float]) -> go.Figure:
    figure = go.Figure(go.Bar(x=list(importance.values()), y=list(importance), orientation="h"))
    return figure.update_layout(
        title="Importance of each field (PED-ANOVA)", yaxis={"autorange": "reversed", "automargin": True}
    )
