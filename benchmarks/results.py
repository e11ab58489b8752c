"""What every benchmark writes: results with the machine, the versions and the commit they were measured on."""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from rec.bundle import git_sha
from rec.storage import replace_file

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("ray", "torch", "numpy", "pandas", "lightgbm", "faiss-cpu")


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = {line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(names)) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def command() -> str:
    """How to run it again, from the root of the repository."""
    script = Path(sys.argv[0]).resolve().relative_to(FOLDER.parents[1])
    return shlex.join(["python", str(script), *sys.argv[1:]])


def quality_result(
    name: str, *, protocol: dict[str, Any], rows: list[dict[str, Any]], summary: list[dict[str, Any]]
) -> dict[str, Any]:
    """A table of quality."""
    return {
        "name": name,
        "command": command(),
        "git_sha": git_sha(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "machine": machine(),
        "protocol": protocol,
        "rows": rows,
        "summary": summary,
    }


def write_result(result: dict[str, Any]) -> None:
    """Writes benchmarks/results/NAME.json."""
    replace_file(FOLDER / f"{result['name']}.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def _cpu_lines() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text().splitlines() if information.exists() else []
