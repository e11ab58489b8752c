"""What every benchmark writes: results with the machine, the versions and the commit they were measured on."""

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import ArrayLike, NDArray

from rec.bundle import git_sha
from rec.metrics import mean_over_users, paired_difference
from rec.storage import replace_file

FOLDER = Path(__file__).parent / "results"
UserValues = Mapping[str, NDArray[np.float64]]
"""Each user's value of each metric, (U,)."""

PACKAGES = ("ray", "torch", "numpy", "pandas", "lightgbm", "faiss-cpu")


def data_folder() -> Path:
    """The folder of TANDEM_DATA; ends the benchmark with what to do where it names none."""
    folder = os.environ.get("TANDEM_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit(f"TANDEM_DATA must name the folder that holds the data, such as ml-1m/; found {folder!r}")
    return Path(folder)


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = {line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(names)) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


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
        "versions": versions(),
        "machine": machine(),
        "protocol": protocol,
        "rows": rows,
        "summary": summary,
    }


def summary_row(
    model: str,
    metric: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    users: Sequence[UserValues] = (),
    published: float | None = None,
    goal: float | None = None,
) -> dict[str, Any]:
    """A model's metric over its rows, which are seeds or logs.

    Args: users: each user's values in each row; then the standard error over users, of the average model, is said, too.
    """
    values = np.array([row["metrics"][metric] for row in rows if row["model"] == model])
    over_users = {"std_error_users": mean_over_users(_each_user(users, metric)).std_error} if users else {}
    return {
        "model": model,
        "metric": metric,
        "mean": float(values.mean()),
        "std_error": float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        **over_users,
        "n": len(values),
        "published": published,
        "goal": goal,
        "reached": None if goal is None else bool(values.mean() >= goal),
    }


def paired_row(a: str, b: str, metric: str, ours: Sequence[UserValues], theirs: Sequence[UserValues]) -> dict[str, Any]:
    """How much more model a has than b, of the same users and seeds; the interval is over users, of the average models.

    Args: ours, theirs: each user's values in each seed; of one that has more seeds, the first.
    """
    both = list(zip(ours, theirs, strict=False))
    averages = [_each_user([pair[side] for pair in both], metric) for side in (0, 1)]
    by_seed = [float((one[metric] - other[metric]).mean()) for one, other in both]
    return {"a": a, "b": b, "metric": metric, **paired_difference(*averages).to_json(), "by_seed": by_seed}


def _each_user(seeds: Sequence[UserValues], metric: str) -> NDArray[np.float64]:
    return np.mean([users[metric] for users in seeds], axis=0)


def quantiles(values: ArrayLike) -> dict[str, float]:
    """Median, and the middle 80%."""
    return {name: float(np.quantile(values, q)) for name, q in (("median", 0.5), ("p10", 0.1), ("p90", 0.9))}


def compared(ours_s: Sequence[float], theirs_s: Sequence[float], peer: dict[str, Any]) -> dict[str, Any]:
    """Times of ours and of a peer in turns, and the geometric mean of their ratios within two standard errors.

    A single turn has no standard error, and its ratio no bounds.
    """
    ours, theirs = np.array(ours_s), np.array(theirs_s)
    logs = np.log(theirs / ours)
    mean, error = logs.mean(), 2 * logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else None
    return {
        "ours": quantiles(1000 * ours),
        "peer": {**peer, **quantiles(1000 * theirs)},
        "ratio": math.exp(mean),
        "ratio_low": None if error is None else math.exp(mean - error),
        "ratio_high": None if error is None else math.exp(mean + error),
    }


def write_result(result: dict[str, Any]) -> None:
    """Writes benchmarks/results/NAME.json."""
    replace_file(FOLDER / f"{result['name']}.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def _cpu_lines() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text().splitlines() if information.exists() else []
