"""`tandem events`: upkeep of a log."""

import time
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, NonNegativeInt

from rec.cli.command import Answer
from rec.config import Config, HomePath

_DAY_MS = 86_400_000


class CompactOptions(Config):
    """Where the log is, and for how long earlier versions of its tables stay readable, as training runs record them."""

    home: HomePath
    keep_hours: NonNegativeInt = 168


class ExpireOptions(CompactOptions):
    """How old requests may get, in days, before they are removed with their impressions and feedback."""

    days: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ForgetOptions(Config):
    """Whose requests are removed, with their impressions and feedback, from all versions of the tables.

    What a server has not yet taken into the tables is not found: stop asking for the user first, and wait three
    minutes. Models that were trained on the log keep what they learned, and a row of the user: train anew.
    """

    user: Annotated[str, Field(min_length=1)]
    home: HomePath


def run_compact(options: CompactOptions) -> Answer:
    """Prints and returns how many files each table had and has."""
    from rec.data.event_upkeep import compact
    from rec.data.events import open_events

    tables = compact(open_events(options.home), keep_hours=options.keep_hours)
    for name, files in tables.items():
        print(f"{name:<12} {files['files_before']:,} files before, {files['files_after']:,} now")
    return {"tables": tables}


def run_expire(options: ExpireOptions) -> Answer:
    """Prints and returns how many rows of each table were removed."""
    from rec.data.event_upkeep import expire
    from rec.data.events import open_events

    before_ms = int(time.time() * 1000 - options.days * _DAY_MS)
    removed = expire(open_events(options.home), max(0, before_ms), keep_hours=options.keep_hours)
    return {"before_ms": before_ms, "removed": _told(removed)}


def run_forget(options: ForgetOptions) -> Answer:
    """Prints and returns how many rows of each table were removed."""
    from rec.data.event_upkeep import forget
    from rec.data.events import open_events

    return {"user": options.user, "removed": _told(forget(open_events(options.home), options.user))}


def _told(removed: Mapping[str, int]) -> Mapping[str, int]:
    for name, count in removed.items():
        print(f"{name:<12} {count:,} rows removed")
    return removed
