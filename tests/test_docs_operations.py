"""What docs/operations.md deletes is what it says: the old that nothing needs."""

import os
import re
import subprocess
import time
from pathlib import Path

from rec.bundle import BundleDetails
from rec.registry import Registry
from rec.storage import Home

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
DETAILS = BundleDetails(config={}, seed=1, schema_sha256="5" * 64)
DAY_S = 86_400


def script() -> str:
    (found,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found


def cleaned(home: Path, keep: str = "") -> int:
    environment = {**os.environ, "TANDEM_HOME": str(home)}
    text = script().replace('keep=""', f'keep="{keep}"')
    return subprocess.run(["sh", "-c", text], env=environment, capture_output=True, timeout=60).returncode


def fill(folder: Path) -> None:
    (folder / "encoders.json").write_bytes(b"{}")


def aged(path: Path, days: float) -> None:
    at = time.time() - days * DAY_S
    os.utime(path, (at, at))


def test_the_old_goes_and_what_serves_served_or_is_young_stays(tmp_path: Path) -> None:
    registry = Registry(Home(tmp_path))
    served = [registry.publish(fill, DETAILS) for _ in range(5)]
    for version in served:
        registry.promote(version)
    refused, shown, young = (registry.publish(fill, DETAILS) for _ in range(3))
    for version in (*served, refused, shown):
        aged(tmp_path / "models" / version, 100)
    old = ["cycles/20260101T120000000000Z", "runs/20260101T120000Z-1a2b3c4d"]
    kept = [
        "cycles/.lease",
        "cycles/20260102T120000000000Z",
        "runs/20260102T120000Z-agent",
        "events/requests",
        "spool/keys",
    ]
    recent = ["runs/20260201T120000Z-1a2b3c4d"]
    for folder in (*old, *kept, *recent):
        days = 3 if folder in recent else 100
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("content")
        aged(tmp_path / folder, days)
    assert cleaned(tmp_path, keep=f"20260102T120000Z-agent {shown}") == 0
    assert registry.versions() == [*served[1:], shown, young]
    left = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("*/*/file")}
    assert left == {*kept, *recent}
    for earlier in reversed(served[1:-1]):
        assert registry.rollback() == earlier


def test_a_home_in_which_nothing_serves_is_left_alone(tmp_path: Path) -> None:
    registry = Registry(Home(tmp_path))
    version = registry.publish(fill, DETAILS)
    aged(tmp_path / "models" / version, 100)
    assert cleaned(tmp_path) != 0
    registry.promote(version)
    assert cleaned(tmp_path) == 0
    assert registry.versions() == [version]
