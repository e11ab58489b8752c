"""Options of `tandem ope` that have no effect, contradict each other or would fail at the end: refused at the start."""

import os
from pathlib import Path
from typing import Final

from rec.config import OpeConfig
from rec.errors import ConfigError

# Options that say nothing about a table of rounds, and those that say nothing about a log of slates.
_OF_EVENTS: Final = (
    "target",
    "epsilon",
    "temperature",
    "rewards",
    "attribution_s",
    "since_ms",
    "until_ms",
    "now_ms",
    "position_weights",
    "allow_no_feedback",
)
_OF_TABLE: Final = ("columns",)


def refuse_ignored(options: OpeConfig) -> None:
    """Refuses options that would have no effect, alone or beside others.

    Raises: ConfigError: naming the option.
    """
    from rec.data.event_rows import refuse_other_units

    of_table = options.table is not None
    for name in _OF_EVENTS if of_table else _OF_TABLE:
        if _is_given(options, name):
            raise ConfigError(
                f"{name} says nothing about a table, whose rows hold reward, propensity and target_p: leave it out"
                if of_table
                else f"{name} names those of a table; give --table FILE, or leave it out: the log's are fixed",
                field=name,
            )
    if options.since_ms is not None and options.until_ms is not None and options.since_ms >= options.until_ms:
        raise ConfigError(
            f"since_ms must lie before until_ms; found {options.since_ms} and {options.until_ms}", field="since_ms"
        )
    for name in ("since_ms", "until_ms", "now_ms"):
        refuse_other_units(name, getattr(options, name))
    columns = options.columns
    if (columns.q_logged is None) != (columns.q_target is None):
        lacking = "q_logged" if columns.q_logged is None else "q_target"
        raise ConfigError(
            "q_logged, the predicted reward of the item shown, and q_target, the predictions' mean under the policy "
            f"under evaluation, say nothing without each other: name both columns, or neither; {lacking} is not given",
            field=f"columns.{lacking}",
        )
    if options.interval == "empirical_bernstein":
        if not of_table:
            raise ConfigError(
                "a log of slates has no empirical Bernstein interval: take --interval student_t or bootstrap",
                field="interval",
            )
        return
    if _is_given(options, "weight_bound"):
        raise ConfigError(
            f"weight_bound is for --interval empirical_bernstein; found {options.interval}: leave it out",
            field="weight_bound",
        )
    if _is_given(options, "reward_range") and not _shrinks(options):
        raise ConfigError(
            "reward_range is for --interval empirical_bernstein, and of a table for estimators that shrink weights: "
            "leave it out",
            field="reward_range",
        )


def refuse_unwritable(plot: str | None, table: str | None) -> None:
    """Refuses a plot that could not be written, or would overwrite the table, before the work and not after it.

    Raises: ConfigError.
    """
    if plot is None:
        return
    path = Path(plot)
    if path.is_dir():
        wrong = "this is a folder; name a file in it"
    elif not path.parent.is_dir():
        wrong = "its folder does not exist; create it"
    elif path.exists() and not path.is_file():
        wrong = "this is a device or a pipe, which no file can replace; name a file"
    elif table is not None and _same_file(path, Path(table)):
        wrong = "this is the table itself, which the plot would overwrite; choose another name"
    elif not all(os.access(place, os.W_OK) for place in (path.resolve().parent, path) if place.exists()):
        wrong = "it may not be written; choose another place"
    else:
        return
    raise ConfigError(f"the plot needs a file to be written to: {wrong}, or leave --plot out", file=plot, field="plot")


def refuse_file_as_home(home: str) -> None:
    """Refuses a home that is a file, which holds no tables.

    Raises: ConfigError.
    """
    if Path(home).is_file():
        raise ConfigError(
            "a home is a folder, and this is a file; name the home whose service logs, or take --table for a file of "
            "rounds",
            file=home,
            field="home",
        )


def _same_file(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))


def _shrinks(options: OpeConfig) -> bool:
    from rec.ope import SHRINKING_ESTIMATORS

    return options.table is not None and not set(options.estimators or SHRINKING_ESTIMATORS).isdisjoint(
        SHRINKING_ESTIMATORS
    )


def _is_given(options: OpeConfig, name: str) -> bool:
    return getattr(options, name) != OpeConfig.model_fields[name].get_default(call_default_factory=True)
