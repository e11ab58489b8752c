"""What stands in the way on this machine, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement

GIB: Final = 2**30
# Where Ray keeps its objects on Linux; elsewhere they are files below its session.
SHARED_MEMORY: Final = "/dev/shm"
PORTS: Final = {8000: "HTTP of `tandem serve`", 6379: "Ray's head node", 8265: "Ray's dashboard and jobs"}
# Of the longest socket below the folder of sessions, which itself ends in /ray.
SOCKET: Final = "/session_2026-01-01_12-00-00_123456_4194304/sockets/dash_TaskEventsHead"
LONGEST_TEMP: Final = (103 if sys.platform == "darwin" else 107) - len(SOCKET)

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `todo` says what to do unless it is ok."""

    name: str
    status: Status
    found: str
    todo: str | None = None


def diagnose(home: str) -> list[Check]:
    """Looks at everything; a check that itself fails is reported as a problem."""
    checks: dict[str, Callable[[], list[Check]]] = {
        "python": _python,
        "packages": _packages,
        "ray": _ray,
        "memory": _memory,
        "disk": lambda: _disk(home),
        "ports": _ports,
        "data": _data,
        "gpu": _gpu,
        "system": _system,
    }
    found: list[Check] = []
    for name, look in checks.items():
        try:
            found.extend(look())
        except Exception as error:
            found.append(Check(name, "problem", f"{type(error).__name__}: {error}", "install again: make clean setup"))
    return found


def to_json(checks: list[Check]) -> dict[str, object]:
    """The checks as `tandem doctor --json` prints them."""
    return {
        "ok": all(check.status != "problem" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _python() -> list[Check]:
    return [Check("python", "ok", platform.python_version())]


def _packages() -> list[Check]:
    checks = []
    for text in importlib.metadata.requires("tandem-rec") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(requirement.name, "problem", "not installed", f"pip install '{requirement}'"))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            checks.append(Check(requirement.name, "ok", version))
        else:
            checks.append(Check(requirement.name, "problem", version, f"pip install '{requirement}'"))
    return checks


def _ray() -> list[Check]:
    from ray._common.utils import get_default_ray_temp_dir

    folder = get_default_ray_temp_dir()
    checks = [Check("ray sessions", "ok", f"under {folder}")]
    length = len(os.fsencode(folder))
    if length > LONGEST_TEMP:
        checks.append(
            Check(
                "ray sessions",
                "problem",
                f"{folder} has {length} bytes",
                f"set RAY_TMPDIR to a path of at most {LONGEST_TEMP - len('/ray')}: systems limit those of sockets",
            )
        )
    address = os.environ.get("RAY_ADDRESS")
    if address:
        checks.append(Check("ray address", "ok", f"RAY_ADDRESS={address}: commands join that cluster"))
    return checks


def _memory() -> list[Check]:
    import psutil

    free = psutil.virtual_memory().available
    checks = [_at_least("memory", free, 3 * GIB, "close other programs, or train on fewer workers")]
    if sys.platform == "linux":
        shared = shutil.disk_usage(SHARED_MEMORY).free
        todo = f"enlarge {SHARED_MEMORY}; in Docker: --shm-size=2g"
        checks.append(_at_least("shared memory", shared, GIB // 2, todo))
    return checks


def _disk(home: str) -> list[Check]:
    folder = Path("." if "://" in home else home).absolute()
    while not folder.exists():
        folder = folder.parent
    checks = [_at_least("disk", shutil.disk_usage(folder).free, 5 * GIB, f"free some space under {folder}")]
    if not os.access(folder, os.W_OK):
        checks.append(Check("home", "problem", f"{folder} cannot be written", "set TANDEM_HOME to a folder of yours"))
    return checks


def _ports() -> list[Check]:
    checks = []
    for port, use in PORTS.items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        found = f"{'in use' if taken else 'free'} ({use})"
        todo = "choose another with --port, or end what listens there" if taken else None
        checks.append(Check(f"port {port}", "warning" if taken else "ok", found, todo))
    return checks


def _data() -> list[Check]:
    folder = os.environ.get("TANDEM_DATA")
    if not folder:
        return [
            Check("data", "warning", "TANDEM_DATA is not set", "set it to a folder with ml-1m/ for real-data tests")
        ]
    if not Path(folder).is_dir():
        return [Check("data", "problem", f"{folder} is no folder", "correct TANDEM_DATA")]
    found = sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
    return [Check("data", "ok", f"{folder}: {', '.join(found)}")]


def _gpu() -> list[Check]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return [Check("gpu", "ok", ", ".join(names))]
    return [Check("gpu", "ok", f"none; training runs on {os.cpu_count()} CPUs")]


def _system() -> list[Check]:
    checks = []
    for program in ("chromium", "redis-server"):
        there = shutil.which(program)
        todo = None if there else "only tests need it: make system-deps"
        checks.append(Check(program, "ok" if there else "warning", there or "not installed", todo))
    return checks


def _at_least(name: str, found: int, wanted: int, todo: str) -> Check:
    told = f"{found / GIB:.1f} GiB free"
    if found >= wanted:
        return Check(name, "ok", told)
    return Check(name, "problem", f"{told}, {wanted / GIB:.1f} wanted", todo)
