"""What time and memory grow with: users, items, events and workers, each from 1x to 16x, the others left as they are.

Run: python benchmarks/scale/growth.py --part train|candidates|evaluate|ope|log
Expect: three to six minutes of one core a part; straight lines with a beginning that no data cost. Kept in
benchmarks/results/growth_PART.json, with the slope of each line.

    train        `tandem train` of two-tower and LambdaMART, each like of the log once a fit, in this process
    candidates   `tandem candidates`, fifty for each user
    evaluate     `tandem evaluate` of a bundle, beside popularity and item neighbours
    ope          `tandem ope --temperature .5` of a log of slates with fifty candidates each
    log          reading that log as training does

What is measured on is written by a process apart, and each size measured in a fresh one, which has imported what it
can before its time begins: `processor_s` is that of all its threads, `peak_mib` the most it held beyond what it held
then. `events` are rows of interactions (train, candidates, evaluate) or impressions (ope, log). Of several workers,
which are other processes and do the largest size of one axis, `tree_s` and `tree_mib` are those of all processes
together, start and end included; memory that these share counts in each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, versions, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.process_memory import peak_mib  # noqa: E402

FACTORS: Final = (1, 2, 4, 8, 16)
SAMPLE_S: Final = 0.2
REWARDS: Final = {"watched": 1.0, "skipped": -2.0, "liked": 2.0, "other": -0.5}
Work = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """How large a world is, and its log; workers 0 is the process itself."""

    users: int
    items: int
    sessions: int
    workers: int = 0


BASE: Final = {
    "train": Size(users=50, items=500, sessions=1600),
    "candidates": Size(users=1000, items=500, sessions=800),
    "evaluate": Size(users=100, items=500, sessions=3200),
    "ope": Size(users=100, items=500, sessions=800),
    "log": Size(users=100, items=500, sessions=800),
}
# What is counted on each axis, by the field of Size that grows.
AXES: Final = {"users": "users", "items": "items", "sessions": "events"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(BASE), required=True)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of train and candidates")
    parser.add_argument("--factors", type=int, nargs="+", default=list(FACTORS))
    parser.add_argument("--child", choices=["prepare", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        asked = [Size(**size) for size in given.sizes]
        print(json.dumps({"prepare": prepare, "measure": measured}[given.child](given.part, asked, given.folder)))
        return
    started = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        grown = sizes(given.part, given.factors, given.workers)
        # What numba compiles is kept in files beside the code, which on a fresh clone the first process writes.
        for what in ("prepare", "measure"):
            _child(what, given.part, [BASE[given.part]], Path(name) / "first")
        _child("prepare", given.part, [size for *_, size in grown], Path(name))
        for axis, factor, size in grown:
            found = _child("measure", given.part, [size], Path(name))
            rows.append({"axis": axis, "factor": factor, **asdict(size), **found})
            print(f"{axis} x {factor}: {found}", file=sys.stderr, flush=True)
    result = {
        "name": f"growth_{given.part}",
        "command": command(),
        "git_sha": git_sha(),
        "versions": versions(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {"base": asdict(BASE[given.part]), "factors": given.factors, "workers": given.workers},
        "seconds": time.perf_counter() - started,
        "rows": rows,
        "lines": lines(rows),
    }
    write_result(result)
    print(json.dumps(result["lines"], indent=1))


def sizes(part: str, factors: Sequence[int], workers: Sequence[int]) -> list[tuple[str, int, Size]]:
    """Every size once: the base, and each axis of it times each factor."""
    base = BASE[part]
    grown = [
        (AXES[field], factor, replace(base, **{field: factor * getattr(base, field)}))
        for field in AXES
        for factor in factors
        if factor != 1
    ]
    # Of the largest size on one axis, which leaves work for all of them.
    most = {"train": replace(base, sessions=16 * base.sessions), "candidates": replace(base, users=16 * base.users)}
    apart = [("workers", n, replace(most[part], workers=n)) for n in workers if part in most]
    return [("base", 1, base), *grown, *apart]


def lines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each axis the straight lines of least squares through what was measured, and how they bend.

    `per_million` is the slope, in seconds and MiB for a million more; `at_zero` where the line begins; `r2` the share
    of the variance it explains; `exponent` the slope of the logarithms over the larger half of the sizes: 1 is in
    proportion, less is a beginning that counts, more grows faster than the data.
    """
    found = []
    for axis in AXES.values():
        of_axis = [row for row in rows if row["axis"] in ("base", axis)]
        n = np.array([row[axis] for row in of_axis], dtype=float)
        for what in ("processor_s", "wall_s", "peak_mib"):
            y = np.array([row[what] for row in of_axis])
            slope, at_zero = np.polyfit(n, y, 1)
            late = n >= np.median(n)
            residual = y - (slope * n + at_zero)
            found.append(
                {
                    "axis": axis,
                    "of": what,
                    "per_million": float(1e6 * slope),
                    "at_zero": float(at_zero),
                    "r2": float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()),
                    "exponent": float(np.polyfit(np.log(n[late]), np.log(y[late]), 1)[0]),
                }
            )
    return found


def prepare(part: str, asked: Sequence[Size], folder: Path) -> None:
    """Writes what sizes are measured on; those that share it find it there."""
    write = {"train": _with_data, "candidates": _with_bundle, "evaluate": _with_evaluated}.get(part, _with_log)
    for size in asked:
        write(size, folder)


def measured(part: str, asked: Sequence[Size], folder: Path) -> dict[str, Any]:
    """What the work of a part takes on a prepared size."""
    (size,) = asked
    parts = {"train": _train, "candidates": _candidates, "evaluate": _evaluate, "ope": _ope, "log": _log}
    work = parts[part](size, folder)
    before_mib = psutil.Process().memory_info().rss / 2**20
    wall, processor = time.perf_counter(), time.process_time()
    told = work()
    return {
        **told,
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
        "peak_mib": peak_mib() - before_mib,
        "before_mib": before_mib,
    }


def _train(size: Size, folder: Path) -> Work:
    from rec.config import DataConfig, TrainConfig
    from rec.data.source import read_dataset
    from rec.pipeline import train

    data = {"name": "parquet", "path": str(_place(folder, size, workers=0) / "data"), "positive_actions": ["watched"]}
    config = TrainConfig.model_validate(
        {
            "data": data,
            "split": {"kind": "none"},
            "retriever": {"queries": {"epoch_share": 1.0, "min_batches": 1}},
            "training": {"workers": size.workers, "epochs": 1},
            "ranker": {"learn_from": "answers", "min_positives": 1, "lambdamart": {"trees": 20, "min_trees": 20}},
        }
    )

    def work() -> dict[str, Any]:
        started = time.process_time()
        dataset = read_dataset(DataConfig.model_validate(data))
        read_s = time.process_time() - started
        train(dataset, config, str(_place(folder, size) / "home"))
        return {"events": len(dataset.interactions), "read_s": read_s}

    return work


def _candidates(size: Size, folder: Path) -> Work:
    from rec.batch import write_candidates
    from rec.config import BatchConfig
    from rec.recommender import Recommender

    home = _place(folder, size, workers=0) / "home"
    n_items = len(Recommender.load(str(home)).item_ids)
    assert n_items == size.items

    def work() -> dict[str, Any]:
        config = BatchConfig(k=50, workers=size.workers, users_per_part=1000)
        write_candidates(config, str(_place(folder, size) / "out"), home=str(home))
        return {"events": json.loads((home / "events.json").read_text())}

    return work


def _evaluate(size: Size, folder: Path) -> Work:
    from rec.cli.evaluation import EvaluateOptions, run_evaluate
    from rec.config.evaluation import BaselinesConfig

    baselines = BaselinesConfig(names=("popularity", "item_knn"))

    home = _place(folder, size) / "home"

    def work() -> dict[str, Any]:
        answer = run_evaluate(EvaluateOptions(home=str(home), baselines=baselines))
        return {"events": json.loads((home / "events.json").read_text()), "judged": answer["split"]["n_users"]}

    return work


def _ope(size: Size, folder: Path) -> Work:
    from rec.cli.ope import run_ope
    from rec.config import OpeConfig

    config = OpeConfig(rewards=REWARDS, temperature=0.5)

    def work() -> dict[str, Any]:
        answer = run_ope(config, str(_place(folder, size)))
        return _counted(folder, size) | {"slates": answer["weights"]["n"]}

    return work


def _log(size: Size, folder: Path) -> Work:
    from rec.config import DataConfig
    from rec.data.logged import read_logged

    config = DataConfig(name="events", path=str(_place(folder, size)), positive_actions=("watched",))

    def work() -> dict[str, Any]:
        return _counted(folder, size) | {"rows": len(read_logged(config).interactions)}

    return work


def _counted(folder: Path, size: Size) -> dict[str, int]:
    return json.loads((_place(folder, size) / "counted.json").read_text())


def _with_data(size: Size, folder: Path) -> None:
    from rec.data.tabular import write_parquet

    out = _place(folder, size, workers=0) / "data"
    if not out.exists():
        write_parquet(_world(size).dataset(n_sessions=size.sessions), out)


def _with_log(size: Size, folder: Path) -> None:
    from rec.data.events import FOLDER, open_events
    from rec.data.tabular import write_side_tables
    from rl.instatok.slate_log import by_category, log_slates
    from rl.instatok.world import CATEGORIES

    world, rng = _world(size), np.random.default_rng(0)
    policy = by_category(rng.normal(size=len(CATEGORIES)), 50)
    log = log_slates(world, policy, n_sessions=size.sessions, k=5, epsilon=0.1, temperature=1.0, rng=rng)
    home = _place(folder, size)
    write_side_tables(world.dataset(n_sessions=1), home / FOLDER)
    log.append_to(open_events(str(home)))
    counted = {"events": len(log.impressions), "requests": len(log.requests), "answers": len(log.feedback)}
    (home / "counted.json").write_text(json.dumps(counted))


def _with_bundle(size: Size, folder: Path) -> None:
    """A bundle that learned from 250 people, with as many users as asked for: these over and over, under other ids."""
    from benchmarks.speed.candidates import with_users
    from rec.config import TrainConfig
    from rec.pipeline import train

    few = replace(size, users=250, workers=0)
    trained, home = _place(folder, few) / "trained", _place(folder, size, workers=0) / "home"
    if not trained.exists():
        settings = {
            "data": {"positive_actions": ["watched"]},
            "split": {"kind": "none"},
            "retriever": {"queries": {"min_batches": 1}},
            "training": {"workers": 0, "epochs": 1},
            "ranker": {"learn_from": "answers", "min_positives": 1, "lambdamart": {"trees": 5, "min_trees": 5}},
        }
        dataset = _world(few).dataset(n_sessions=size.sessions)
        train(dataset, TrainConfig.model_validate(settings), str(trained))
        (trained / "events.json").write_text(json.dumps(len(dataset.interactions)))
    if not home.exists():
        with_users(str(trained), home, size.users)
        (home / "events.json").write_text((trained / "events.json").read_text())


def _with_evaluated(size: Size, folder: Path) -> None:
    from rec.config import DataConfig, TrainConfig
    from rec.data.source import read_dataset
    from rec.pipeline import train

    _with_data(size, folder)
    home = _place(folder, size) / "home"
    data = {"name": "parquet", "path": str(_place(folder, size) / "data"), "positive_actions": ["watched"]}
    dataset = read_dataset(DataConfig.model_validate(data))
    settings = {
        "data": data,
        "retriever": {"queries": {"min_batches": 1}},
        "training": {"workers": 0, "epochs": 1},
        "ranker": {"learn_from": "answers", "min_positives": 1, "lambdamart": {"trees": 5, "min_trees": 5}},
    }
    train(dataset, TrainConfig.model_validate(settings), str(home))
    (home / "events.json").write_text(json.dumps(len(dataset.interactions)))


def _world(size: Size) -> Any:
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok

    return InstaTok(InstaTokConfig(n_users=size.users, n_videos=size.items, seed=0))


def _place(folder: Path, size: Size, **other: int) -> Path:
    """The folder of a size, or of one that is the same but for what is given."""
    return folder / "-".join(map(str, asdict(replace(size, **other)).values()))


def _child(what: str, part: str, asked: Sequence[Size], folder: Path) -> dict[str, Any]:
    """What a process of its own answers; of one that measures also what it and its children took together."""
    arguments = [
        "--part",
        part,
        "--child",
        what,
        "--sizes",
        json.dumps(list(map(asdict, asked))),
        "--folder",
        str(folder),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    spent: dict[int, float] = {}
    most = 0.0
    while child.poll() is None:
        rss = 0
        for process in _family(child.pid):
            try:
                times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                continue
            spent[process.pid] = times.user + times.system
            rss += memory.rss
        most = max(most, rss / 2**20)
        time.sleep(SAMPLE_S)
    assert child.stdout is not None
    printed = child.stdout.read()
    if child.returncode != 0:
        sys.exit(f"{part} {what} of {asked} failed; run: python {__file__} {' '.join(arguments)}")
    answer = json.loads(printed.splitlines()[-1]) or {}
    return answer | {"tree_s": sum(spent.values()), "tree_mib": most}


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
