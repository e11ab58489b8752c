"""Swing as Ray tasks: runs of users add up their pairs, then ranges of items add up the runs."""

from functools import partial
from typing import Any

import ray

from rec.i2i.pair_sums import PairSums
from rec.i2i.swing import AddUp
from rec.i2i.swing_pairs import UserPairs


def add_up_in_tasks(n_tasks: int) -> AddUp:
    """What `SwingSums.build` and `update` take as `add_up`: the same result for any number of tasks.

    A task holds the log and the sums of its own users; the ranges of items come together in tasks, too.
    Ray must be running; see `rec.on_ray.cluster.ensure_ray`.
    """
    return partial(_add_up, n_tasks=n_tasks)


def _add_up(pairs: UserPairs, n_tasks: int) -> tuple[PairSums, int]:
    # More runs of users than tasks at a time, as the work of a run is estimated only.
    runs = pairs.blocks(4 * n_tasks)
    if not runs:
        return PairSums.total([]), 0
    shared = ray.put(pairs)
    mapped: list[Any] = [  # for each run a reference to each of its results
        ray.remote(_add_up_run).options(num_cpus=1, num_returns=n_tasks + 1).remote(shared, start, stop, n_tasks)
        for start, stop in runs
    ]
    ranges = [
        ray.remote(_add_up_range).options(num_cpus=1).remote(*(run[place] for run in mapped))
        for place in range(n_tasks)
    ]
    return PairSums.chained(ray.get(ranges)), sum(ray.get([run[-1] for run in mapped]))


def _add_up_run(pairs: UserPairs, start: int, stop: int, n_ranges: int) -> tuple[PairSums | int, ...]:
    sums, additions = pairs.sums(start, stop)
    return (*sums.split(n_ranges, pairs.n_items), additions)


def _add_up_range(*runs: PairSums) -> PairSums:
    return PairSums.total(runs)
