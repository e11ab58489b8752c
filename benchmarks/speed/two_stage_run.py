"""How long one run of the MovieLens experiment takes, as a whole command: one objective, one seed, labels in the cache.

Run:    TANDEM_DATA=/path/to/data python benchmarks/speed/two_stage_run.py [--reference] [--objective 2-ips]
        once benchmarks/quality/two_stage_movielens.py has left the simulator's labels in its cache.
Times:  the command of a fresh process, from its start to its end: imports, reading ratings and labels, drawing the log,
        bounds, fitting and choosing the epoch, judging, the table. `fit_s` is the fitting with the choice of the epoch.
        On a machine that does something else, too, a wall time says little; `load` is how many processes wanted to run.
Expect: 90 s was aimed for, on two cores.
Writes: benchmarks/results/two_stage_run[_reference].json
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import FOLDER, command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.errors import DataError  # noqa: E402
from rec.storage import Home  # noqa: E402

SCRIPT = ROOT / "benchmarks" / "quality" / "two_stage_movielens.py"
GOAL_S = 90.0


def main() -> None:
    """Runs the command once and writes what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="the authors' simulator, ranker and logging policy")
    parser.add_argument("--objective", default="2-ips")
    parser.add_argument("--log", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="that holds the labels; by default in the home")
    options = parser.parse_args()
    cache = (options.cache or (Home().folder or Path(".tandem")) / "benchmarks") / SCRIPT.stem
    labels = [*cache.glob("labels-*.npz"), *cache.glob("simulator-*.safetensors")]
    if not labels:
        raise DataError(f"{cache} holds no labels; run {SCRIPT.relative_to(ROOT)} once, or name its --cache")
    name = "two_stage_run" + ("_reference" if options.reference else "")
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / SCRIPT.stem
        fresh.mkdir()
        for file in labels:
            shutil.copy(file, fresh)
        arguments = ["--logs", str(options.log), "--seeds", "0", "--objectives", options.objective]
        arguments += ["--threads", str(options.threads), *(["--reference"] if options.reference else [])]
        load = os.getloadavg()[0]
        started = time.perf_counter()
        # Its table of one run is not the benchmark's.
        subprocess.run([sys.executable, SCRIPT, *arguments, "--cache", folder, "--label", "timed"], check=True)
        seconds = time.perf_counter() - started
        (runs,) = fresh.glob("*.jsonl")
        lines = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines() if line]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for file in FOLDER.glob("two_stage_movielens*_timed.*"):
        file.unlink()
    result = {
        "name": name,
        "command": command(),
        "git_sha": git_sha(),
        "machine": machine(),
        "protocol": {"command": ["python", str(SCRIPT.relative_to(ROOT)), *arguments], "load": load},
        "unit": "s",
        "whole_s": seconds,
        "fit_s": next(line["seconds"] for line in lines if "seconds" in line),
        "cpu_s": used.ru_utime + used.ru_stime,
        "goal": GOAL_S,
        "reached": seconds <= GOAL_S,
    }
    write_result(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
