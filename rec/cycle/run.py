"""Runs cycles: step by step, one at a time, from where the last one was cut off."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, final

from rec.config import CycleConfig
from rec.cycle.journal import CYCLES, Journal, Status, latest_journal
from rec.cycle.lease import Lease, LeaseError
from rec.runs import say
from rec.storage import Home

LEASE: Final = f"{CYCLES}/.lease"
# A step that finds this ends the cycle: there is nothing to do yet, for the reason it gives.
WAITING: Final = "waiting"


@final
@dataclass(frozen=True, slots=True)
class Cycle:
    """What a step reads.

    Attributes: location: of the home, as given. home: the same, opened. journal: what came before. again: whether a
        process that was killed had begun this step.
    """

    location: str
    home: Home
    journal: Journal
    again: bool = False

    @property
    def config(self) -> CycleConfig:
        """Of the cycle."""
        return self.journal.config

    def found(self, step: str) -> dict[str, Any]:
        """What an earlier step found."""
        return self.journal.steps[step]


Step = Callable[[Cycle], dict[str, Any]]


def run_cycle(location: str, config: CycleConfig, steps: Mapping[str, Step]) -> Journal:
    """One cycle to its end, or the rest of one that was cut off, with the config it had.

    A step may be done again when the process died after it and before that was written: each finds then what it had
    left, and goes on with that.

    Args: location: of the home. steps: by name, in order.
    Raises: LeaseError: when another process is at it. Whatever a step raises; the cycle has failed then, unless it had
        promoted or refused already, and the next one begins anew.
    """
    home = Home(location)
    with Lease(home, LEASE, seconds=config.lease_s) as lease:
        journal = latest_journal(home)
        if journal is None or journal.status != "open":
            journal = Journal.begin(config)
            journal.write(home)
            say(f"cycle {journal.cycle}")
        else:
            say(f"cycle {journal.cycle} goes on after {', '.join(journal.steps) or 'its beginning'}")
            if journal.config.asked() != config.asked():
                say("it was begun with other options, and goes on with those")
        for name, step in steps.items():
            if any(WAITING in found for found in journal.steps.values()):
                break
            if name in journal.steps:
                continue
            lease.hold()
            again = journal.begun == name
            journal = journal.beginning(name)
            journal.write(home)
            started = time.perf_counter()
            try:
                found = step(Cycle(location, home, journal, again))
                after = journal.done(name, {**found, "seconds": round(time.perf_counter() - started, 2)})
            except Exception as error:
                with suppress(LeaseError):  # who has taken the lease may have gone on with this cycle
                    lease.hold()
                    status = _status(journal) if "promote" in journal.steps else "failed"
                    journal.ended(status, f"{name}: {error}").write(home)
                raise
            lease.hold()
            journal = after
            journal.write(home)
        journal = journal.ended(_status(journal))
        journal.write(home)
        return journal


def run_every(seconds: float, cycle: Callable[[], object], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Cycles until the process is ended, one every so many seconds from now on; one that fails does not end them."""
    next_s = time.monotonic()
    while True:
        try:
            cycle()
        except Exception as error:
            say(f"{type(error).__name__}: {error}; the next cycle comes in its turn")
        next_s = max(next_s + seconds, time.monotonic())
        sleep(max(0.0, next_s - time.monotonic()))


def reasons(journal: Journal) -> list[str]:
    """What there is to wait for, what the gate found not to hold, or why what it let pass was not promoted."""
    waiting = [found[WAITING] for found in journal.steps.values() if WAITING in found]
    return [*waiting, *(why for step in ("gate", "promote") for why in journal.steps.get(step, {}).get("reasons", []))]


def judged_before(journal: Journal) -> int:
    """How many challengers, other than its own, some of a cycle's requests had judged before."""
    return len(set(journal.steps["read"].get("judged_before", [])) - {journal.steps["train"]["challenger"]})


def _status(journal: Journal) -> Status:
    if any(WAITING in found for found in journal.steps.values()):
        return "waiting"
    return "promoted" if journal.steps["promote"]["promoted"] else "refused"
