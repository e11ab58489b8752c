"""What a table says about the order of objectives, and what tables of several logging policies say about its cause."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np

from two_stage.report import STAGES, Table, percent, told, verdict
from two_stage.summary import CrossedMean, crossed_mean

# The order of the paper, the best first.
ORDER: Final = ("2-ips", "1-ips", "ce")
BEST, PLAIN = ORDER[0], ORDER[-1]


def order_lines(table: Table, metric: str) -> list[str]:
    """Which neighbours of the paper's order stand as it says, among the objectives of the table."""
    present = [objective for objective in ORDER if objective in table.objectives]
    lines = []
    for stage in STAGES:
        for better, worse in pairwise(present):
            found = table.difference(better, worse, stage, metric)
            lines.append(f"{stage} {better} > {worse} {_kept(found)}: {percent(found, '+')}, {verdict(found)}")
    return lines


def _kept(difference: CrossedMean) -> str:
    if difference.std_error is None:
        return "cannot be told from one run"
    if abs(difference.mean) <= 2 * difference.std_error:
        return "is not shown"
    return "holds" if difference.mean > 0 else "is reversed"


def gap_lines(table: Table, metric: str) -> list[str]:
    """How good the log is already, and how much the ranker changes."""
    gap = table.bound("logging policy", metric) - table.bound("most clicked", metric)
    ranked = [
        f"{objective} {100 * (table.cell(objective, STAGES[1], metric).mean - one.mean):+.2f}"
        for objective in table.objectives
        for one in [table.cell(objective, STAGES[0], metric)]
    ]
    return [
        f"logging policy - most clicked: {100 * gap:+.2f}",
        f"two-stage - one-stage: {', '.join(ranked)}",
    ]


def policies(tables: Mapping[int, Table], metric: str) -> list[dict[str, Any]]:
    """How good each logging policy and its logs are, and what weights gain at each stage; the weakest first.

    Args: tables: by how many points the policy knew, of the same seeds and logs, with all of ORDER.
    """
    return [
        {"policy_points": points, "right": float(np.mean([run["log"]["right"] for run in table.bounds.values()]))}
        | {name: table.bound(name, metric) for name in ("logging policy", "most clicked")}
        | {"gains": {stage: told(table.difference(BEST, PLAIN, stage, metric)) for stage in STAGES}}
        for points, table in sorted(tables.items())
    ]


def policy_lines(tables: Mapping[int, Table], metric: str) -> list[str]:
    """Whether weights gain more where the logging policy knew less, which they should if a good log left them nothing.

    Args: as of `policies`.
    """
    lines = []
    for row, table in zip(policies(tables, metric), (tables[points] for points in sorted(tables)), strict=True):
        gap = row["logging policy"] - row["most clicked"]
        gains = [f"{stage} {_read(table.difference(BEST, PLAIN, stage, metric))}" for stage in STAGES]
        lines.append(
            f"logging policy of {row['policy_points']} points: {100 * row['right']:.1f}% of the log right, it lies "
            f"{100 * gap:+.2f} from the most clicked; {BEST} - {PLAIN}: {', '.join(gains)}"
        )
    if len(tables) < 2:
        return [*lines, "no runs of other logging policies: whether a good log leaves weights nothing to gain is open"]
    for stage in STAGES:
        weak, strong = (
            table.values[BEST, stage, metric] - table.values[PLAIN, stage, metric]
            for table in (tables[min(tables)], tables[max(tables)])
        )
        more = crossed_mean(weak - strong)
        sure = more.std_error is not None and more.mean > 2 * more.std_error
        lines.append(
            f"a good log leaves weights nothing to gain, {stage}: {'supported' if sure else 'not shown'}; with "
            f"{min(tables)} points in place of {max(tables)} they gain {_read(more)} more"
        )
    return lines


def _read(difference: CrossedMean) -> str:
    return f"{percent(difference, '+')} ({verdict(difference)})"
