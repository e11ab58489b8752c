"""A challenger takes the place of the champion that it was judged beside, once, and of no other."""

from pathlib import Path
from typing import Any

import pytest

from rec.bundle import BundleDetails
from rec.config import CycleConfig
from rec.cycle.journal import Journal, latest_journal
from rec.cycle.run import Cycle, Step, reasons, run_cycle
from rec.cycle.steps import promote
from rec.errors import BundleError
from rec.registry import HISTORY, Registry
from rec.storage import Home

CONFIG = CycleConfig(rewards={"watched": 1.0}, now_ms=1000)


class Killed(BaseException):
    """The end of a process."""


def fill(folder: Path) -> None:
    (folder / "weights.json").write_bytes(b"{}")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Of a home with two models, of which the first serves, and a third."""
    registry = Registry(Home(tmp_path))
    details = BundleDetails(config={}, seed=0, schema_sha256="5" * 64)
    for _ in range(3):
        registry.publish(fill, details)
    registry.promote(registry.versions()[0])
    return registry


def steps(registry: Registry, last: Step = promote) -> dict[str, Step]:
    """Of a cycle that promotes the second model in the place of the first, if it may."""
    champion, challenger, _ = registry.versions()
    found: dict[str, Any] = {
        "read": {"champion": champion},
        "train": {"challenger": challenger},
        "gate": {"promote": True, "reasons": []},
    }
    earlier: dict[str, Step] = {name: lambda cycle, name=name: found[name] for name in found}
    return {**earlier, "promote": last}


def killed_after(step: Step) -> Step:
    def killed(cycle: Cycle) -> dict[str, Any]:
        step(cycle)
        raise Killed

    return killed


def run(registry: Registry, last: Step = promote) -> Journal:
    return run_cycle(registry.home.location, CONFIG, steps(registry, last))


def test_killed_after_it_promoted_it_has_promoted_once(registry: Registry) -> None:
    champion, challenger, _ = registry.versions()
    with pytest.raises(Killed):
        run(registry, killed_after(promote))
    journal = run(registry)
    assert journal.status == "promoted" and registry.current() == challenger
    assert registry.home.read(HISTORY) == f"{champion}\n".encode()


def test_a_rollback_after_it_was_killed_is_not_undone(registry: Registry) -> None:
    champion, challenger, _ = registry.versions()
    with pytest.raises(Killed):
        run(registry, killed_after(promote))
    assert registry.rollback() == champion
    journal = run(registry)
    assert journal.status == "refused" and registry.current() == champion
    (why,) = reasons(journal)
    assert f"killed while it promoted {challenger}" in why and f"tandem models promote {challenger}" in why


def test_killed_before_it_began_to_promote_it_promotes(registry: Registry) -> None:
    def killed(cycle: Cycle) -> dict[str, Any]:
        raise Killed

    with pytest.raises(Killed):
        run_cycle(registry.home.location, CONFIG, {**steps(registry), "gate": killed})
    assert run(registry).status == "promoted" and registry.current() == registry.versions()[1]


def test_what_was_promoted_while_the_challenger_was_being_verified_goes_on_serving(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger, other = registry.versions()
    verify = Registry.open

    def meanwhile(self: Registry, version: str) -> Any:
        if version == challenger:
            registry.promote(other)
        return verify(self, version)

    monkeypatch.setattr(Registry, "open", meanwhile)
    with pytest.raises(BundleError, match=f"{challenger} was to serve instead of {champion}, and {other} does by now"):
        run(registry)
    failed = latest_journal(registry.home)
    assert failed is not None and failed.status == "failed" and registry.current() == other
