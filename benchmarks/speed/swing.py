"""Swing on MovieLens-1M beside LibRecommender's (recfarm, compiled from Rust), and as the log grows.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install recfarm==0.2.1 scipy
    TANDEM_DATA=/path/to/data python benchmarks/speed/swing.py --peer-python /tmp/peer/bin/python

Writes benchmarks/results/swing.json. Both count the same log by the same formula (alpha 1, w_u = |I_u|^-1/2), one
thread each, taking turns: all users, half of them, a quarter. The peer has no caps, so both are given what the caps on
items and users leave; ours applies them again, sums in 64 bits, and sorts the 100 nearest of each item. First they have
to agree, on a small log, about who is near; at every size they have to find as many pairs. The peer takes minutes for
the largest log, so it counts that once, the half twice and the quarter four times (once has no interval); ours counts
before and after it each time, and its time is the mean of the two. Then a day is added to the log of the days before,
and compared with counting anew: in additions, which no other load on the machine changes, and in time.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, compared, data_folder, machine, write_result  # noqa: E402
from benchmarks.speed.peer import Ask, peer  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.config import CosineConfig, SwingConfig  # noqa: E402
from rec.data.dataset import Interactions  # noqa: E402
from rec.i2i import CosineSums, ItemNeighbors, SwingSums  # noqa: E402

DAY_S: Final = 86_400
# One user in how many, and how often the peer counts them.
PARTS: Final = {"4x": (1, 1), "2x": (2, 2), "1x": (4, 4)}


def main() -> None:
    options = arguments()
    config = SwingConfig(
        user_offset=0.0,
        user_power=0.5,
        max_items_per_user=options.max_items_per_user,
        max_users_per_item=options.max_users_per_item,
    )
    whole = movielens(data_folder() / "ml-1m" / "ratings.dat")
    agreement = agree(whole, options.peer_python)
    print(f"the nearest ten are the same for {agreement:.2%} of the items", flush=True)
    rows = []
    for size, (part, turns) in PARTS.items():
        log = left_by_caps(whole.take(whole.user % part == 0), config)
        rows.append({"log": size, **measure(log, config, options.peer_python, turns)})
        print(line(rows[-1]), flush=True)
    day = update_day(whole, config)
    for name, row in day.items():
        print(f"a day added, {name}: {row}", flush=True)
    result = {
        "name": "swing",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {"config": config.model_dump(), "threads": 1, "same_ten_nearest": agreement},
        "unit": "ms",
        "repeats": PARTS["4x"][1],
        **{key: rows[0][key] for key in ("ours", "peer", "ratio", "ratio_low", "ratio_high")},
        "rows": rows,
        "update": day,
    }
    write_result(result)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has recfarm")
    parser.add_argument("--max-items-per-user", type=int, default=200)
    parser.add_argument("--max-users-per-item", type=int, default=1000)
    return parser.parse_args()


def movielens(file: Path) -> Interactions:
    """All ratings, whatever they say, in the order of their time."""
    columns = np.loadtxt(file, delimiter=":", usecols=(0, 2, 6), dtype=np.int64)
    columns = columns[np.argsort(columns[:, 2], kind="stable")]
    users, user = np.unique(columns[:, 0], return_inverse=True)
    items, item = np.unique(columns[:, 1], return_inverse=True)
    ids = (users.astype(str).astype(object), items.astype(str).astype(object))
    return Interactions(*ids, user.astype(np.int32), item.astype(np.int32), columns[:, 2] * 1000)


def left_by_caps(log: Interactions, config: SwingConfig) -> Interactions:
    state = SwingSums.build(log, config, rng=np.random.default_rng(0), add_up=nothing)
    kept = state.log.take(state.kept)
    return Interactions(log.user_ids, log.item_ids, kept.user.astype(np.int32), kept.item.astype(np.int32), kept.values)


def nothing(pairs: Any) -> Any:
    return pairs.sums(0, 0)


def measure(log: Interactions, config: SwingConfig, python: str, turns: int) -> dict[str, Any]:
    ours, theirs = [], []
    counted(log, config)  # compiles
    with counting(log, python) as ask:
        version = ask(None)["version"]
        for _ in range(turns):
            before, state = counted(log, config)
            answer = ask("fit")
            after, state = counted(log, config)
            if answer["directed_pairs"] != 2 * len(state.pairs):
                raise RuntimeError(f"{answer['directed_pairs']} pairs of the peer, {2 * len(state.pairs)} of ours")
            ours.append((before + after) / 2)
            theirs.append(answer["seconds"])
    return {
        "interactions": len(log),
        "pairs": len(state.pairs),
        "additions": state.additions,
        "repeats": turns,
        **compared(ours, theirs, {"name": "LibRecommender (recfarm)", "version": version}),
    }


def counted(log: Interactions, config: SwingConfig) -> tuple[float, SwingSums]:
    """Seconds of counting and sorting, and what was counted."""
    started = time.perf_counter()
    state = SwingSums.build(log, config, rng=np.random.default_rng(0))
    state.neighbors()
    return time.perf_counter() - started, state


def agree(whole: Interactions, python: str) -> float:
    """Share of items whose ten nearest the peer names in our order, on 150 users.

    The peer tells neighbours only as recommendations, so each item gets a user who has nothing else: who shares no two
    items with anybody adds to no score.
    """
    some = whole.take(whole.user < 150)
    items = np.unique(some.item)
    askers = np.arange(len(items)) + 150
    log = Interactions(
        np.arange(150 + len(items)).astype(str).astype(object),
        whole.item_ids,
        np.concatenate([some.user, askers]).astype(np.int32),
        np.concatenate([some.item, items]).astype(np.int32),
        np.zeros(len(some) + len(items), np.int64),
    )
    config = SwingConfig(user_offset=0.0, user_power=0.5, max_items_per_user=10_000, max_users_per_item=10_000)
    ours = SwingSums.build(log, config, rng=np.random.default_rng(0)).neighbors()
    with counting(log, python) as ask:
        ask(None)
        ask("fit")
        near = ask("near")["near"]
    return float(np.mean([same(ours, item, others) for item, others in zip(items, near, strict=True)]))


def same(ours: ItemNeighbors, item: int, others: list[int]) -> bool:
    """Whether these are the ten nearest, but for scores that are equal in the peer's 32 bits."""
    run = slice(ours.indptr[item], ours.indptr[item + 1])
    score = dict(zip(ours.indices[run].tolist(), ours.scores[run].tolist(), strict=True))
    found = [score.get(other, 0.0) for other in others]
    return len(others) == min(10, len(score)) and np.allclose(found, ours.scores[run][: len(others)], rtol=1e-5)


def update_day(whole: Interactions, config: SwingConfig) -> dict[str, dict[str, float]]:
    """What the last day costs when it is added to the days before, beside counting all days anew."""
    cut = int(whole.timestamp.max()) - DAY_S * 1000
    before, day = whole.before(cut), whole.take(whole.timestamp >= cut)
    yesterday = SwingSums.build(before, config, rng=np.random.default_rng(0))
    started = time.perf_counter()
    updated = yesterday.update(day)
    update_s = time.perf_counter() - started
    started = time.perf_counter()
    anew = SwingSums.build(whole, config, rng=np.random.default_rng(0))
    anew_s = time.perf_counter() - started
    if not np.array_equal(updated.pairs.sums, anew.pairs.sums):
        raise RuntimeError("an update is not what counting anew gives")
    liked = CosineSums.build(before, CosineConfig())
    started = time.perf_counter()
    liked = liked.update(day)
    cosine_update_s = time.perf_counter() - started
    started = time.perf_counter()
    CosineSums.build(whole, CosineConfig())
    cosine_anew_s = time.perf_counter() - started
    users = len(np.unique(day.user))
    return {
        "swing": {
            "interactions": len(day),
            "users": users,
            "additions_ratio": updated.additions / anew.additions,
            "time_ratio": update_s / anew_s,
        },
        "cosine": {
            "interactions": len(day),
            "users": users,
            "users_ratio": liked.changed_users / whole.n_users,
            "time_ratio": cosine_update_s / cosine_anew_s,
        },
    }


@contextmanager
def counting(log: Interactions, python: str) -> Iterator[Ask]:
    """The peer, which has the log."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "log.npz"
        np.savez(file, user=log.user, item=log.item)
        with peer(python, Path(__file__).with_name("swing_peer.py"), str(file)) as ask:
            yield ask


def line(row: dict[str, Any]) -> str:
    ours, theirs = row["ours"]["median"] / 1000, row["peer"]["median"] / 1000
    ratio = f"{row['ratio']:.2f}"
    if row["ratio_low"] is not None:
        ratio += f" [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    return f"{row['log']}: {row['interactions']} interactions, ours {ours:.2f} s, peer {theirs:.2f} s, ratio {ratio}"


if __name__ == "__main__":
    main()
