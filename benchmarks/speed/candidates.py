"""Candidates for many users: users a second of a core's time, of `tandem candidates` and of a plain loop.

Run: python benchmarks/speed/candidates.py [--users 40000] [--workers 2] [--k 50] [--ranked] [--home .tandem]
Expect: a ratio below 1, our users a second of processor time over those of the loop, which has all rows of users in
memory before its time begins and the machine for itself; half a minute a repeat; peak memory of the largest worker with
a quarter of the users and with all, alike.
Kept in benchmarks/results/candidates.json (candidates_ranked.json).

The bundle of --home (by default one that is trained here for a moment on a generated world) is given --users users, its
own over and over under new ids. The loop asks the same recommender for the same users, 256 at a time, which holds all
their rows in memory, and writes one Parquet file; neither loading nor starting is in its time. Ours reads the users'
rows, answers and writes. Both rates are by the processor time of all threads of who answers, loading apart; `wall` is
our users a second of everything, Ray's start included.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import BundleDetails, git_sha  # noqa: E402
from rec.golden import GOLDEN_FILE  # noqa: E402
from rec.registry import Registry  # noqa: E402
from rec.storage import Home  # noqa: E402

BLOCK = 256
OURS = """
import json, sys
from rec.batch import write_candidates
from rec.config import BatchConfig
given = json.loads(sys.argv[1])
print(json.dumps(write_candidates(BatchConfig(**given["config"]), given["out"], home=given["home"])))
"""
LOOP = "import sys; from benchmarks.speed.candidates import loop; loop(*sys.argv[1:])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings = (("users", 40_000), ("workers", 2), ("k", 50), ("users-per-part", 2000), ("repeats", 20))
    for name, default in settings:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ranked", action="store_true")
    parser.add_argument("--home")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = given.home or trained(folder / "trained")
        large = with_users(home, folder / "large", given.users)
        quarter = with_users(home, folder / "quarter", given.users // 4)
        pairs = []
        for repeat in range(given.repeats):
            ours = write(large, folder / f"ours-{repeat}", given)
            pairs.append((ours, plain(large, folder / "loop.parquet", given)))
            print(f"{ours['users_per_s_per_core']:,.0f} users/s/core, the loop {pairs[-1][1]:,.0f}", file=sys.stderr)
        smaller = write(quarter, folder / "smaller", given)
    result = summary(given, pairs, smaller)
    write_result(result)
    print(json.dumps(result))


def trained(folder: Path) -> str:
    """A home with a bundle of 1,000 people and 2,000 videos."""
    from rec.config import QueriesConfig, RetrieverConfig, TrainConfig, TrainingConfig
    from rec.pipeline import train
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok

    config = TrainConfig(
        retriever=RetrieverConfig(queries=QueriesConfig(min_batches=5)), training=TrainingConfig(workers=0, epochs=1)
    )
    world = InstaTok(InstaTokConfig(n_users=1000, n_videos=2000, seed=0))
    train(world.dataset(), config, str(folder))
    return str(folder)


def with_users(home: str, folder: Path, n_users: int) -> str:
    """The current bundle of a home with its users over and over, as a home of its own."""
    bundle = Registry(Home(home)).open()

    def fill(draft: Path) -> None:
        # The golden answers are of users whose ids are not there any more: who is asked for them is nobody known.
        for name in set(bundle.manifest.files) - {GOLDEN_FILE}:
            shutil.copy(bundle.path(name), draft / name)
        own = pq.read_table(draft / "users.parquet")
        many = own.take(pa.array(np.arange(n_users) % len(own)))
        ids = pa.array([f"user-{row:09d}" for row in range(n_users)])
        pq.write_table(many.set_column(many.column_names.index("user_id"), "user_id", ids), draft / "users.parquet")

    details = BundleDetails.model_validate(bundle.manifest.model_dump(include=set(BundleDetails.model_fields)))
    registry = Registry(Home(folder))
    registry.promote(registry.publish(fill, details))
    return str(folder)


def write(home: str, out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What `tandem candidates --json` says, of a run in a process of its own."""
    config = {name: getattr(given, name) for name in ("k", "ranked", "users_per_part", "workers")}
    answer = _last_line([OURS, json.dumps({"config": config, "out": str(out), "home": home})])
    shutil.rmtree(out)
    return answer


def plain(home: str, out: Path, given: argparse.Namespace) -> float:
    """Users a second of the loop's processor time, in a process of its own."""
    return float(_last_line([LOOP, home, str(out), str(given.k), str(int(given.ranked))]))


def loop(home: str, out: str, k: str, ranked: str) -> None:
    """What one would write first: load, ask for some users after the others, write at the end."""
    from rec.recommender import Recommender

    recommender = Recommender.load(home)
    user_ids, item_ids, n = recommender.snapshot.user_ids, recommender.item_ids, int(k)
    started, rows = time.process_time(), []
    for start in range(0, len(user_ids), BLOCK):
        states = recommender.hydrate(user_ids[start : start + BLOCK])
        wanted = max(n, recommender.config.ranker.n_candidates) if int(ranked) else n
        found = recommender.retrieve(states, wanted)
        scores = recommender.rank(states, found) if int(ranked) else found.scores
        best = np.lexsort((found.items, -scores), axis=1)[:, :n]
        items, scores = (np.take_along_axis(values, best, axis=1) for values in (found.items, scores))
        user, rank = np.nonzero(items >= 0)
        columns = {"user_id": user_ids[start + user], "rank": rank, "item_id": item_ids[items[user, rank]]}
        rows.append(pa.table({**columns, "score": scores[user, rank]}))
    pq.write_table(pa.concat_tables(rows), out, compression="zstd")
    print(len(user_ids) / (time.process_time() - started))


def summary(
    given: argparse.Namespace, pairs: list[tuple[dict[str, Any], float]], smaller: dict[str, Any]
) -> dict[str, Any]:
    ours = np.array([answer["users_per_s_per_core"] for answer, _ in pairs])
    theirs = np.array([rate for _, rate in pairs])
    wall = np.array([answer["users_per_s"] for answer, _ in pairs])
    resampled = np.random.default_rng(0).integers(0, len(pairs), (2000, len(pairs)))
    ratios = np.median(ours[resampled], axis=1) / np.median(theirs[resampled], axis=1)
    return {
        "name": "candidates_ranked" if given.ranked else "candidates",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {name: value for name, value in vars(given).items() if name != "home"},
        "unit": "users/s of processor time",
        "repeats": len(pairs),
        "ours": _quantiles(ours),
        "peer": {
            "name": "plain loop, one process, 256 users at a time",
            "version": "same recommender",
            **_quantiles(theirs),
        },
        "ratio": float(np.median(ours) / np.median(theirs)),
        "ratio_low": float(np.quantile(ratios, 0.025)),
        "ratio_high": float(np.quantile(ratios, 0.975)),
        "wall": {"unit": "users/s", **_quantiles(wall)},
        "peak_mib": {
            "quarter_of_the_users": smaller["peak_mib"],
            "all": {place: max(answer["peak_mib"][place] for answer, _ in pairs) for place in ("driver", "worker")},
        },
    }


def _last_line(arguments: list[str]) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", *arguments], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _quantiles(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


if __name__ == "__main__":
    main()
