"""`tandem events`: upkeep of a log."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import Field

from rec.cli.command import Answer
from rec.config import Config, HomePath
from rec.errors import ConfigError, DataError
from rec.storage import Home

_DAY_MS: Final = 86_400_000
_MAX_DAYS: Final = 36_500
Count = TypeVar("Count")


class CompactOptions(Config):
    """Where the log is, and for how long earlier versions of its tables stay readable, as training runs record them."""

    home: HomePath
    keep_hours: Annotated[int, Field(ge=0, le=24 * _MAX_DAYS)] = 168


class ExpireOptions(CompactOptions):
    """How old requests may get, in days, before they are removed with their impressions and feedback.

    `spool` is the one of the servers that are running, where it is another than `spool` in the home: they take no more
    feedback on what was removed.
    """

    days: Annotated[float, Field(gt=0, le=_MAX_DAYS)]
    spool: str | None = None


class ForgetOptions(Config):
    """Whose requests are removed, with their impressions and feedback, from all versions of the tables.

    What a server has not yet taken into the tables is not found: stop asking for the user first, and wait three
    minutes. Models that were trained on the log keep what they learned, and a row of the user: train anew. `spool` is
    the one of the servers that are running, where it is another than `spool` in the home: they take no more feedback on
    what was removed, and know its idempotency keys no more.
    """

    user: Annotated[str, Field(min_length=1)]
    home: HomePath
    spool: str | None = None


def run_compact(options: CompactOptions) -> Answer:
    """Prints and returns how many files each table had and has."""
    from rec.data.event_upkeep import compact
    from rec.data.events import open_events

    tables = _of_a_log(options.home, compact(open_events(options.home), keep_hours=options.keep_hours))
    for name, files in tables.items():
        print(f"{name:<12} {files['files_before']:,} files before, {files['files_after']:,} now")
    return {"tables": tables}


def run_expire(options: ExpireOptions) -> Answer:
    """Prints and returns how many rows of each table were removed."""
    from rec.data.event_upkeep import expire
    from rec.data.events import open_events

    spool = _spool(options)
    before_ms = int(time.time() * 1000 - options.days * _DAY_MS)
    removed = expire(open_events(options.home), max(0, before_ms), keep_hours=options.keep_hours)
    return {"before_ms": before_ms, "removed": _told(options.home, spool, removed)}


def run_forget(options: ForgetOptions) -> Answer:
    """Prints and returns how many rows of each table were removed."""
    from rec.data.event_upkeep import forget
    from rec.data.events import open_events
    from serve.request_log import forget_keys

    spool = _spool(options)
    # Before the rest is removed, or a request sent again meanwhile would be logged again.
    n_keys = 0 if spool is None else forget_keys(spool, options.user)
    removed = forget(open_events(options.home), options.user)
    told = _told(options.home, spool, removed)
    print(f"{'keys':<12} {n_keys:,} forgotten")
    return {"user": options.user, "removed": told, "keys": n_keys}


def _of_a_log(home: str, counts: Mapping[str, Count]) -> Mapping[str, Count]:
    if not counts:
        raise DataError("there is no log in this home: no table was ever written", file=Home(home).show("events"))
    return counts


def _spool(options: ExpireOptions | ForgetOptions) -> Path | None:
    """Where servers that are running look for what was removed, None where none can be known of."""
    if options.spool is not None:
        if not (named := Path(options.spool).expanduser()).is_dir():
            raise ConfigError(f"a folder is required; found {options.spool!r}", field="spool")
        return named
    folder = Home(options.home).folder
    return None if folder is None else folder / "spool"


def _told(home: str, spool: Path | None, removed: Mapping[str, int]) -> Mapping[str, int]:
    """Prints what was removed, and tells servers that are running."""
    from serve.known import tell_forgotten

    for name, count in _of_a_log(home, removed).items():
        print(f"{name:<12} {count:,} rows removed")
    if spool is None:
        print(
            "Servers that are running take feedback on these requests until they end, and log those again that are sent"
        )
        print("again under their idempotency keys: name their --spool.")
    elif spool.is_dir():
        tell_forgotten(spool)
    return removed
