"""Slates that are shorter than what was asked for: where nothing else was eligible, or an impression was lost."""

import numpy as np
import pytest

from rec.data.event_rows import validated
from rec.data.rounds import join_rounds
from rec.errors import DataError
from rec.ope.slate_log import logged_slates, slate_log
from rl.instatok.slate_log import REWARD_OF


def two_items(shown, *, k=3, epsilon=1.0):
    """Requests of k items from a catalogue of two. Args: shown: position, item and how many were eligible, of each."""
    requests = [
        {"request_id": f"r{n}", "timestamp": n, "user_id": f"u{n}", "policy_version": "v", "arm": "b", "k": k,
         "epsilon": epsilon, "temperature": 1.0, "degraded": False, "context": "{}", "history": [],
         "candidates": ["a", "b"], "candidate_scores": [0.0, 0.0]}
        for n in range(len(shown))
    ]  # fmt: skip
    impressions = [
        {"request_id": f"r{n}", "position": position, "item_id": item, "source": "x", "propensity": 1 / n_eligible,
         "n_eligible": n_eligible}
        for n, slate in enumerate(shown)
        for position, item, n_eligible in slate
    ]  # fmt: skip
    given = validated("requests", requests), validated("impressions", impressions), validated("feedback", [])
    return join_rounds(*given, rewards=REWARD_OF, now_ms=2**50)


WHOLE = [(0, "a", 2), (1, "b", 1)]


def test_a_slate_is_short_where_nothing_else_was_eligible():
    log = slate_log(two_items([WHOLE, WHOLE]))
    assert (len(log), log.n_incomplete) == (2, 0)
    own = logged_slates(log, log.logging, rng=np.random.default_rng(0))
    assert own.target_p.tolist() == [[0.5, 1.0]] * 2


@pytest.mark.parametrize("shown", [WHOLE[:1], WHOLE[1:]])
def test_a_short_slate_that_lost_an_impression_is_left_out(shown):
    """The first: something was eligible below. The second: nothing was, but the top is missing."""
    log = slate_log(two_items([WHOLE, shown, WHOLE]))
    assert (log.request_id.tolist(), log.n_incomplete) == (["r0", "r2"], 1)
    with pytest.raises(DataError, match="no request of 1 can be evaluated: 0 have no candidates logged, and of 1 imp"):
        slate_log(two_items([shown]))


def test_an_impression_below_what_was_asked_for_is_refused():
    with pytest.raises(DataError, match="request 'r1' asked for 1 and has position 1") as refused:
        slate_log(two_items([WHOLE[:1], WHOLE], k=1))
    assert (refused.value.file, refused.value.column) == ("impressions", "position")
