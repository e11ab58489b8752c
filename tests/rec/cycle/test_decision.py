"""What the gate decides, what is promoted of that, and which published model a cycle finds again."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rec.bundle import BundleDetails
from rec.config import CycleConfig, GateConfig, TrainConfig
from rec.cycle.journal import Journal
from rec.cycle.run import Cycle
from rec.cycle.steps import _published, challenger_config, gate, promote
from rec.gate import LEVEL, Comparison, Health
from rec.ope import Estimate, Interval
from rec.registry import Registry
from rec.storage import Home

CONFIG = CycleConfig(
    rewards={"watched": 1.0},
    now_ms=1000,
    gate=GateConfig(min_coverage_ratio=0.5, max_latency_ratio=2.0, max_calibration_rise=0.02),
)
SOUND = Health(coverage=0.4, latency_ms=4.0, calibration_error=0.03)
NARROW = Health(coverage=0.1, latency_ms=4.0, calibration_error=0.03)
SLOW = Health(coverage=0.4, latency_ms=16.0, calibration_error=0.03)
OFF = Health(coverage=0.4, latency_ms=4.0, calibration_error=0.08)


def worth(low: float) -> dict[str, Any]:
    """A comparison, as a journal has it, in which the challenger earns more than this much more."""
    interval = Interval(low, low + 0.2, LEVEL, "student_t")
    found = Estimate(low + 0.1, 0.05, interval, 6000, 900, 5000.0, 3.0, 1.0, "cascade_dr")
    return asdict(Comparison(found, found, found))


def estimated(challenger: Health, champion: Health, *, low: float = 0.1, n_impressions: int = 5000) -> dict[str, Any]:
    return {
        "comparison": worth(low),
        "challenger": asdict(challenger),
        "champion": asdict(champion),
        "n_impressions": n_impressions,
    }


def step_of(run: Callable[[Cycle], dict[str, Any]], home: Home, **found: dict[str, Any]) -> dict[str, Any]:
    """What a step finds after these."""
    journal = Journal.begin(CONFIG)
    for name, each in found.items():
        journal = journal.done(name, each)
    return run(Cycle(home.location, home, journal))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Of a home with two models, of which the first serves."""

    def fill(folder: Path) -> None:
        (folder / "weights.json").write_bytes(b"{}")

    registry = Registry(Home(tmp_path))
    for _ in range(2):
        registry.publish(fill, BundleDetails(config={}, seed=0, schema_sha256="5" * 64))
    registry.promote(registry.versions()[0])
    return registry


def test_who_earns_more_and_is_as_sound_is_let_through(tmp_path: Path) -> None:
    assert step_of(gate, Home(tmp_path), estimate=estimated(SOUND, SOUND))["promote"] is True


@pytest.mark.parametrize(("other", "reason"), [(NARROW, "coverage"), (SLOW, "latency"), (OFF, "calibration")])
def test_a_challenger_that_is_worse_in_one_thing_is_refused_and_a_champion_that_is_gives_way(
    tmp_path: Path, other: Health, reason: str
) -> None:
    refused = step_of(gate, Home(tmp_path), estimate=estimated(other, SOUND))
    assert refused["promote"] is False
    assert len(refused["reasons"]) == 1 and reason in refused["reasons"][0]
    assert step_of(gate, Home(tmp_path), estimate=estimated(SOUND, other))["promote"] is True


@pytest.mark.parametrize(
    ("changed", "reason"), [({"low": -0.01}, "lower bound"), ({"n_impressions": 9}, "impressions")]
)
def test_a_challenger_as_sound_that_nothing_speaks_for_is_refused(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    found = step_of(gate, Home(tmp_path), estimate=estimated(SOUND, SOUND, **changed))
    assert found["promote"] is False
    assert len(found["reasons"]) == 1 and reason in found["reasons"][0]


def test_where_nothing_could_be_estimated_nothing_is_promoted_and_the_reason_is_told(registry: Registry) -> None:
    champion, challenger = registry.versions()
    found = step_of(gate, registry.home, estimate={"refusal": "nobody answered"})
    assert (found["promote"], found["reasons"]) == (False, ["nobody answered"])
    earlier = {"read": {"champion": champion}, "train": {"challenger": challenger}, "gate": found}
    assert step_of(promote, registry.home, **earlier) == {"promoted": False, "current": champion}
    assert registry.current() == champion


@pytest.mark.parametrize("passed", [False, True])
def test_what_the_gate_says_is_what_happens(registry: Registry, passed: bool) -> None:
    champion, challenger = registry.versions()
    verdict = step_of(gate, registry.home, estimate=estimated(SOUND if passed else SLOW, SOUND))
    earlier = {"read": {"champion": champion}, "train": {"challenger": challenger}, "gate": verdict}
    serves = challenger if passed else champion
    assert step_of(promote, registry.home, **earlier) == {"promoted": passed, "current": serves}
    assert registry.current() == serves


def test_a_challenger_is_found_again_by_all_of_its_config(registry: Registry) -> None:
    champion, _ = registry.versions()

    def config(since_ms: int, parent: str = champion) -> TrainConfig:
        return challenger_config(TrainConfig(), CONFIG, path="home", parent=parent, since_ms=since_ms)

    def fill(folder: Path) -> None:
        (folder / "weights.json").write_bytes(b"{}")

    details = BundleDetails(config=config(1000).model_dump(mode="json"), seed=0, schema_sha256="5" * 64)
    version = registry.publish(fill, details)
    found = _published(registry, config(1000))
    assert found is not None and found.version == version
    assert _published(registry, config(1001)) is None
    assert _published(registry, config(1000, parent=version)) is None
