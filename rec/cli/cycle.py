"""`tandem cycle`: a service learns from its own log, and takes what is better."""

import re
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import AfterValidator, model_validator

from rec.cli.command import Answer
from rec.config import CycleConfig, HomePath
from rec.errors import ConfigError

if TYPE_CHECKING:
    from rec.cycle.journal import Journal

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _duration(text: str | None) -> str | None:
    if text is not None and seconds_of(text) <= 0:
        raise ValueError("a time above 0 is required, such as 24h")
    return text


class CycleOptions(CycleConfig):
    """One cycle, or one every so often: `every` is a number with s, m, h or d, such as 24h; by default there is one.

    A cycle that was cut off is gone on with first, with the config it had. `home` is where events and models are.
    """

    home: HomePath
    every: Annotated[str | None, AfterValidator(_duration)] = None

    @model_validator(mode="after")
    def _goes_on_from_current(self) -> Self:
        if self.incremental.parent is not None or self.incremental.catalogue is not None:
            raise ValueError(
                "a challenger goes on from CURRENT and has its catalogue: leave incremental.parent and catalogue out, "
                "or train one with `tandem train --no-promote`, which --challenger judges"
            )
        return self


def seconds_of(text: str) -> float:
    """The seconds of a time such as 90s, 30m, 24h or 7d.

    Raises: ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise ValueError(f"a number with s, m, h or d is required, such as 24h; found {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def run_cycle_command(options: CycleOptions) -> Answer:
    """Runs a cycle, prints what came of it and why, and returns it."""
    from rec.cycle.run import run_cycle, run_every
    from rec.cycle.steps import STEPS, require_rewards
    from rec.data.event_rows import refuse_other_units
    from rec.storage import Home

    refuse_other_units("now_ms", options.now_ms)
    folder = Home(options.home).folder
    if folder is not None and not folder.is_dir():
        raise ConfigError("there is no such folder: name the home whose service logs", file=str(folder), field="home")
    require_rewards(options)
    config = CycleConfig.model_validate(options.model_dump(exclude={"home", "every"}))

    def one() -> Answer:
        return _told(run_cycle(options.home, config, STEPS))

    if options.every is not None:
        run_every(seconds_of(options.every), one)
    return one()


def _told(journal: "Journal") -> Answer:
    from rec.cycle.run import judged_before, reasons

    steps, why = journal.steps, reasons(journal)
    champion, challenger = steps["read"]["champion"], steps.get("train", {}).get("challenger")
    print(f"cycle {journal.cycle}: {journal.status}; champion {champion}, challenger {challenger or 'none'}")
    for reason in why:
        print(f"  {reason}")
    if challenger is not None and (before := judged_before(journal)):
        print(f"  some of these requests judged {before} other challengers before; see docs/cycle.md")
    for name, estimate in steps.get("estimate", {}).get("comparison", {}).items():
        around = estimate["interval"]
        interval = "" if around is None else f" [{around['low']:+.4f}, {around['high']:+.4f}]"
        print(f"  {name:<12} {estimate['value']:+.4f}{interval}  ess {estimate['ess']:,.0f} of {estimate['n']:,}")
    for text in steps.get("train", {}).get("warnings", []):
        print(f"  warning: {text}")
    if "report" in steps:
        print(f"  report: {steps['report']['html']}")
    return {
        "cycle": journal.cycle,
        "status": journal.status,
        "champion": champion,
        "challenger": challenger,
        "current": steps.get("promote", {}).get("current", champion),
        "reasons": why,
        "steps": steps,
    }
