"""The benchmark of training beside a peer refuses sides that did not do the same."""

from typing import Any

import pytest

from benchmarks.speed.train_dqn import TRAINING, of_share, reached, require_as_many_updates, told


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


def test_a_share_is_reached_for_good_by_the_report_from_which_on_all_have_it():
    curve = [{"seconds": float(place), "reward": reward} for place, reward in enumerate((9.0, 3.0, 9.0, 9.5))]
    assert reached(curve, 9.0) == {"until_s": 2.0, "first_s": 0.0}
    assert reached(curve, 9.2) == {"until_s": 3.0, "first_s": 3.0}
    assert reached(curve, 2.0) == {"until_s": 0.0, "first_s": 0.0}
    assert reached(curve, 9.6) == {"until_s": None, "first_s": None}
    assert reached([*curve, {"seconds": 4.0, "reward": 1.0}], 9.0) == {"until_s": None, "first_s": 0.0}


def test_a_ratio_is_over_the_seeds_in_which_both_sides_got_there():
    rows = [
        {side: told(run(60_000, 460), best) for side, best in (("ours", 9.0), ("peer", theirs))}
        for theirs in (9.0, 9.1, 20.0)
    ]
    found = of_share(rows, 0.95)["until_s"]
    assert (found["n_ours"], found["n_peer"], found["ratio"]) == (3, 2, 1.0)
    assert of_share(rows[1:], 0.95)["until_s"]["ratio"] is None
