"""Run by test_run: kills a cycle at each of its writes of files, and before and after each step, and goes on with it.

Prints the number of kills. A process of its own, because it forks.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rec.config import CycleConfig
from rec.cycle.journal import latest_journal
from rec.cycle.run import Cycle, run_cycle
from rec.storage import Home

CONFIG = CycleConfig(rewards={"watched": 1.0}, now_ms=1000)
WRITES = ("fsync", "replace")


class Steps(dict[str, Any]):
    """Steps that write what they do into a file each, and find what is in it when they are done again."""

    def __init__(self, root: Path, passed: Callable[[], None]) -> None:
        def step(name: str) -> Callable[[Cycle], dict[str, Any]]:
            def run(cycle: Cycle) -> dict[str, Any]:
                passed()
                file = root / f"{cycle.journal.cycle}-{name}"
                if not file.exists():
                    file.write_text(f"after {len(cycle.journal.steps)} steps")
                passed()
                return {"found": file.read_text(), "promoted": True}

            return run

        super().__init__({name: step(name) for name in ("read", "train", "promote")})


def in_child(action: Callable[[], object]) -> bool:
    """Whether a child that does this was killed. Delta Lake's threads do not survive a fork: only children use it."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WIFSIGNALED(status)


def cycle_until(call: int, root: Path) -> None:
    """A cycle that is killed at its call-th write."""
    calls = itertools.count()

    def passed() -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(real: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            passed()
            return real(*args, **kwargs)

        return wrapper

    for name in WRITES:
        setattr(os, name, deadly(getattr(os, name)))
    run_cycle(str(root), CONFIG, Steps(root, passed))


def rest_of_cycle(root: Path) -> None:
    """What is left of it, and nothing where it had ended."""
    begun = latest_journal(Home(root))
    ended = begun is not None and begun.status != "open"
    journal = begun if begun is not None and ended else run_cycle(str(root), CONFIG, Steps(root, lambda: None))
    assert begun is None or journal.cycle == begun.cycle
    # What has to be the same however often a cycle was cut off.
    found = {name: step["found"] for name, step in journal.steps.items()}
    (root / "outcome").write_text(repr((journal.status, journal.config, found)))


def main(root: Path) -> int:
    """Kills cycles at one write after the other until one ends before."""
    expected = None
    for number in itertools.count(-1):
        home = root / str(number)
        home.mkdir()
        died = number >= 0 and in_child(lambda call=number, home=home: cycle_until(call, home))
        in_child(lambda home=home: rest_of_cycle(home))
        outcome = (home / "outcome").read_text()
        expected = expected or outcome
        assert outcome == expected, (number, outcome, expected)
        if number >= 0 and not died:
            return number
    raise AssertionError


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
