"""The benchmark of training beside a peer refuses sides that did not do the same."""

from typing import Any

import pytest

from benchmarks.speed.train_dqn import TRAINING, require_as_many_updates, told


def run(steps: int, updates: int) -> dict[str, Any]:
    curve = [{"steps": steps / 2, "seconds": 1.0, "reward": 3.0}, {"steps": steps, "seconds": 2.0, "reward": 9.0}]
    return {"curve": curve, "updates": updates, "steps": steps}


def test_updates_over_as_many_steps_are_compared():
    """A round is 512 steps, of which 4 batches of 1024 are learnt: two rounds are 8 updates."""
    require_as_many_updates({"ours": run(60_000, 461), "peer": run(61_000, 476)}, TRAINING)
    for updates in (452, 470):
        with pytest.raises(RuntimeError, match=f"ours made 461, and the peer {updates}"):
            require_as_many_updates({"ours": run(60_000, 461), "peer": run(60_000, updates)}, TRAINING)
    with pytest.raises(RuntimeError, match="ours made 0"):
        require_as_many_updates({"ours": run(6_000, 0), "peer": run(6_000, 0)}, TRAINING)


def test_what_is_told_is_of_the_first_report_that_earns_what_is_wanted():
    found = told(run(60_000, 460), wanted=8.0)
    assert (found["until_s"], found["until_steps"], found["updates"]) == (2.0, 60_000, 460)
    assert told(run(60_000, 460), wanted=9.5)["until_s"] is None
