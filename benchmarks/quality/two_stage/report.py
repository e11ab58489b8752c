"""The table of a two-stage experiment: objectives beside bounds and published figures, and their differences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from results import FOLDER, quality_result, write_result

from two_stage.plot import PANELS, plot_runs
from two_stage.published import Figures
from two_stage.runs import commits
from two_stage.summary import CrossedMean, crossed_mean

STAGES: Final = ("one-stage", "two-stage")


@dataclass(frozen=True, slots=True)
class Table:
    """Finished runs of some objectives, each of every seed with every log.

    Attributes:
        runs: by objective, seed and log.
        bounds: by log a run that holds metrics of lists without a generator, by name.
        values: seeds x logs by objective, stage and metric.
    """

    runs: Mapping[tuple[str, int, int], dict[str, Any]]
    bounds: Mapping[int, dict[str, Any]]
    values: Mapping[tuple[str, str, str], NDArray[np.float64]]
    objectives: Sequence[str]
    metrics: Sequence[str]

    @classmethod
    def of(
        cls,
        runs: Iterable[dict[str, Any]],
        bounds: Mapping[int, dict[str, Any]],
        *,
        objectives: Sequence[str],
        seeds: Sequence[int],
        logs: Sequence[int],
        metrics: Sequence[str],
    ) -> Self:
        """The table of the runs named, which all must be there."""
        by_key = {tuple(run["settings"][name] for name in ("objective", "seed", "log")): run for run in runs}
        keys = [(objective, seed, log) for log in logs for objective in objectives for seed in seeds]
        found = {key: by_key[key] for key in keys}
        values = {
            (objective, stage, metric): np.array(
                [[found[objective, seed, log]["rows"][stage][metric] for log in logs] for seed in seeds]
            )
            for objective in objectives
            for stage in STAGES
            for metric in metrics
        }
        return cls(found, bounds, values, objectives, metrics)

    @property
    def bound_names(self) -> list[str]:
        """Of all bounds."""
        return list(next(iter(self.bounds.values()))["rows"])

    def cell(self, objective: str, stage: str, metric: str) -> CrossedMean:
        """Of an objective."""
        return crossed_mean(self.values[objective, stage, metric])

    def bound(self, name: str, metric: str) -> float:
        """Of a bound, the mean over logs."""
        return float(np.mean([run["rows"][name][metric] for run in self.bounds.values()]))

    def difference(self, a: str, b: str, stage: str, metric: str) -> CrossedMean:
        """Of two objectives, paired by seed and log."""
        return crossed_mean(self.values[a, stage, metric] - self.values[b, stage, metric])


def print_table(table: Table, heading: str, references: Mapping[str, Figures]) -> None:
    """Prints all cells in percent; below an objective what the references have of it, by their title."""
    print(f"\n{heading:<34}" + "".join(f"{metric:>15}" for metric in table.metrics))
    for name in table.bound_names:
        print(f"{name:<34}" + "".join(f"{100 * table.bound(name, metric):15.2f}" for metric in table.metrics))
    for stage in STAGES:
        for objective in table.objectives:
            cells = [percent(table.cell(objective, stage, metric)).rjust(15) for metric in table.metrics]
            print(f"{stage + ' ' + objective:<34}" + "".join(cells))
            for title, figures in references.items():
                if (figure := figures.get((objective, stage))) is not None:
                    known = [f"{100 * figure[m]:15.2f}" if m in figure else " " * 15 for m in table.metrics]
                    print((f"{'    ' + title:<34}" + "".join(known)).rstrip())


def differences(table: Table, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Each objective against those before it, paired by seed and log."""
    return [
        {"a": f"{stage} {a}", "b": f"{stage} {b}", "metric": metric} | told(table.difference(a, b, stage, metric))
        for stage in STAGES
        for place, a in enumerate(table.objectives)
        for b in table.objectives[:place]
        for metric in metrics
    ]


def told(difference: CrossedMean) -> dict[str, float | None]:
    """A difference as JSON has it."""
    return {
        "difference": difference.mean,
        "std_error": difference.std_error,
        "df": difference.df,
        "p_value": difference.p_value,
    }


def print_differences(paired: Iterable[dict[str, Any]]) -> None:
    """Prints what `differences` found, in percentage points."""
    print("\npaired by seed and log, percentage points; p of Student's t, two-sided")
    for row in paired:
        found = CrossedMean(row["difference"], row["std_error"], row["df"])
        print(f"{row['a']} - {row['b'].partition(' ')[2]}, {row['metric']}: {percent(found, '+')}  {verdict(found)}")


def write_table(
    name: str,
    table: Table,
    *,
    protocol: dict[str, Any],
    paired: list[dict[str, Any]],
    published: Figures | None = None,
    goals: Figures | None = None,
    panels: dict[str, str] = PANELS,
) -> None:
    """Writes and draws a table, and prints which commits did its runs.

    Args: published, goals: stand beside the means; a goal is reached where the mean is not below it by more than two
        standard errors.
    """
    by_commit = commits([*table.runs.values(), *table.bounds.values()])
    print("\nruns by commit: " + ", ".join(f"{count} {commit}" for commit, count in by_commit.items()))
    rows = [
        {"model": bound, "seed": None, "log": log, "metrics": run["rows"][bound]}
        for bound in table.bound_names
        for log, run in table.bounds.items()
    ]
    rows += [
        {"model": f"{stage} {objective}", "seed": seed, "log": log, "git_sha": run.get("git_sha")}
        | {"metrics": run["rows"][stage], "epoch": run["epoch"], "seconds": run["seconds"]}
        for (objective, seed, log), run in table.runs.items()
        for stage in STAGES
    ]
    summary = [
        _entry(bound, metric, CrossedMean(table.bound(bound, metric), None, None), len(table.bounds), None, None)
        for bound in table.bound_names
        for metric in table.metrics
    ]
    summary += [
        _entry(
            f"{stage} {objective}",
            metric,
            table.cell(objective, stage, metric),
            table.values[objective, stage, metric].size,
            (published or {}).get((objective, stage), {}).get(metric),
            (goals or {}).get((objective, stage), {}).get(metric),
        )
        for stage in STAGES
        for objective in table.objectives
        for metric in table.metrics
    ]
    protocol = {**protocol, "paired": paired, "commits": by_commit}
    write_result(quality_result(name, protocol=protocol, rows=rows, summary=summary))
    plot_runs(table.values, list(table.bounds.values()), FOLDER / f"{name}.png", panels)


def percent(cell: CrossedMean, sign: str = "") -> str:
    """A mean in percent, with its standard error where there is one."""
    return f"{100 * cell.mean:{sign}.2f}" + ("" if cell.std_error is None else f" ± {100 * cell.std_error:.2f}")


def verdict(difference: CrossedMean) -> str:
    """Whether a difference is beyond two standard errors, and how likely one as large is where there is none.

    Below one degree of freedom the standard error is itself hardly known, and p is not said.
    """
    p = difference.p_value
    if p is None or difference.std_error is None:
        return "one run"
    beyond = abs(difference.mean) > 2 * difference.std_error
    side = ("above" if difference.mean > 0 else "below") if beyond else "within two standard errors"
    if difference.df is None or difference.df < 1:
        return f"{side}; too few logs for p"
    return f"{side}; {difference.df:.1f} df, p {'< .001' if p < 0.001 else f'{p:.3f}'}"


def _entry(
    model: str, metric: str, cell: CrossedMean, n: int, published: float | None, goal: float | None
) -> dict[str, Any]:
    reached = None if goal is None else cell.mean >= goal - 2 * (cell.std_error or 0.0)
    named = {"model": model, "metric": metric, "mean": cell.mean, "std_error": cell.std_error, "n": n}
    return {**named, "published": published, "goal": goal, "reached": reached}
