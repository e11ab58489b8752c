"""The join of the log: one round per impression, with the reward of its latest feedback in time."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.data.event_rows import SLOW_MS, validated
from rec.data.events import open_events
from rec.data.rounds import _ranks, join_rounds, read_rounds
from rec.errors import ConfigError, DataError

REWARDS = {"watched": 1.0, "skipped": -2.0, "liked": 2.0}
DAY_S = 86_400
DAY_MS = DAY_S * 1000
NOW = 10 * DAY_MS


def request(request_id="r1", timestamp=DAY_MS, user_id="u1", **values):
    row = {"request_id": request_id, "timestamp": timestamp, "user_id": user_id, "policy_version": "v1", "arm": "b"}
    row |= {"epsilon": 0.25, "temperature": 0.5, "k": 2, "degraded": False, "context": "{}", "history": ["h1", "h2"]}
    return {**row, **values}


def impression(request_id="r1", position=0, item_id="a", **values):
    row = {"request_id": request_id, "position": position, "item_id": item_id, "source": "i2i"}
    return {**row, "propensity": 0.5, "n_eligible": 3, **values}


def event(event_id, item_id="a", action="watched", timestamp=DAY_MS + 1, request_id="r1"):
    row = {"event_id": event_id, "request_id": request_id, "item_id": item_id, "action": action}
    return {**row, "timestamp": timestamp, "received_at": timestamp}


def join(requests, impressions, feedback=(), **options):
    tables = [validated("requests", requests), validated("impressions", impressions), validated("feedback", feedback)]
    return join_rounds(*tables, **{"rewards": REWARDS, "now_ms": NOW, **options})


def test_a_round_holds_what_was_logged():
    scored = {"candidates": ["a", "c"], "candidate_scores": [1.5, 0.5]}
    rounds = join(
        [request("r2", DAY_MS + 7, "u2", k=1), request("r1", **scored)],
        [impression("r2", 0, "c"), impression("r1", 1, "b", propensity=0.125), impression("r1", 0, "a")],
        [event("e1", "b", "liked")],
    )
    assert rounds.item_id.tolist() == ["a", "b", "c"], "by time, then from the top of the slate"
    assert rounds.user_id.tolist() == ["u1", "u1", "u2"]
    assert rounds.request.tolist() == [0, 0, 1] and rounds.request.dtype == np.int32
    assert rounds.position.tolist() == [0, 1, 0] and rounds.position.dtype == np.int16
    assert rounds.propensity.tolist() == [0.5, 0.125, 0.5]
    assert rounds.reward.tolist() == [0.0, 2.0, 0.0]
    assert rounds.timestamp.tolist() == [DAY_MS, DAY_MS, DAY_MS + 7]
    assert rounds.policy_version.tolist() == ["v1"] * 3
    assert rounds.requests.request_id.tolist() == ["r1", "r2"] and rounds.requests.k.tolist() == [2, 1]
    assert rounds.requests.has_candidates.tolist() == [True, False]
    assert rounds.requests.candidates[0].tolist() == ["a", "c"] and rounds.requests.candidates[1].tolist() == []
    assert rounds.requests.candidate_scores[0].tolist() == [1.5, 0.5]
    assert rounds.requests.history[1].tolist() == ["h1", "h2"]
    assert rounds.dropped == {}
    second = rounds.take(np.array([1]))
    assert len(second) == 1 and second.reward.tolist() == [2.0] and second.requests is rounds.requests


def test_the_latest_feedback_wins_and_ties_go_to_the_greater_event_id():
    later = [event("e1", action="liked", timestamp=DAY_MS + 9), event("e2", action="skipped", timestamp=DAY_MS + 8)]
    assert join([request()], [impression()], later).reward.tolist() == [2.0]
    tie = [event("e2", action="skipped"), event("e1", action="liked")]
    for order in (tie, tie[::-1]):
        rounds = join([request()], [impression()], order)
        assert rounds.reward.tolist() == [-2.0] and rounds.dropped == {"superseded_feedback": 1}


@pytest.mark.parametrize(("delay_ms", "reward"), [(0, 1.0), (DAY_MS, 1.0), (DAY_MS + 1, 0.0)])
def test_feedback_counts_within_the_attribution_time(delay_ms, reward):
    rounds = join([request()], [impression()], [event("e1", timestamp=DAY_MS + delay_ms)])
    assert rounds.reward.tolist() == [reward]
    assert rounds.dropped == ({} if reward else {"late_feedback": 1})


@pytest.mark.parametrize("slow_ms", [1, 2_000, SLOW_MS])
def test_feedback_by_a_slow_clock_counts_and_keeps_its_order(slow_ms: int):
    given = [event("e1", action="skipped", timestamp=DAY_MS - slow_ms)]
    rounds = join([request()], [impression()], given)
    assert rounds.reward.tolist() == [-2.0] and rounds.dropped == {} and rounds.answered_at.tolist() == [DAY_MS]
    later = event("e0", action="liked", timestamp=DAY_MS - slow_ms + 1)
    assert join([request()], [impression()], [*given, later]).reward.tolist() == [2.0]


def test_feedback_dated_long_before_its_request_is_no_answer_to_it():
    given = [event("e1", action="liked", timestamp=DAY_MS - SLOW_MS - 1)]
    rounds = join([request()], [impression()], given)
    assert rounds.reward.tolist() == [0.0] and rounds.dropped == {"early_feedback": 1}
    assert join([request()], [impression()], [*given, event("e2")]).reward.tolist() == [1.0]


def test_what_came_after_the_time_of_the_join_is_not_known_yet():
    """So that a join as of a time is the same whenever it is made."""
    requests, shown = [request(), request("r2", NOW + 1)], [impression(), impression("r2")]
    in_time = event("e1", action="liked")
    sent_late = event("e2", action="skipped", timestamp=DAY_MS + 9) | {"received_at": NOW + 1}
    before = join([request()], [impression()], [in_time])
    rounds = join(requests, shown, [in_time, sent_late, event("e3", timestamp=NOW + 2, request_id="r2")])
    assert rounds.reward.tolist() == before.reward.tolist() == [2.0]
    assert rounds.dropped == {"future_impressions": 1, "future_feedback": 2}
    assert join(requests, shown, [in_time, sent_late], now_ms=NOW + 1).reward.tolist() == [-2.0]


def test_an_event_received_again_counts_from_when_it_was_known_first():
    again = event("e1") | {"received_at": NOW + 1}
    for order in ([event("e1"), again], [again, event("e1")]):
        rounds = join([request()], [impression()], order)
        assert rounds.reward.tolist() == [1.0] and rounds.dropped == {"repeated_feedback": 1}


@pytest.mark.parametrize(
    ("column", "other"),
    [("action", "liked"), ("item_id", "b"), ("timestamp", DAY_MS + 2), ("value", 3.0)],
)
def test_events_of_one_id_that_contradict_each_other_are_named(column, other):
    given = [event("e0"), event("e1", item_id="c"), event("e1", item_id="c") | {column: other}]
    with pytest.raises(DataError, match=r"event_id 'e1' has .* in row 1 and .* in row 2") as refused:
        join([request()], [impression(), impression("r1", 1, "b")], given)
    assert (refused.value.file, refused.value.row, refused.value.column) == ("feedback", 2, column)


def test_events_of_two_requests_may_have_one_id():
    """Each is received for the first time by itself, too."""
    given = [event("e1", request_id="r1"), event("e1", action="liked", request_id="r2") | {"received_at": NOW + 1}]
    rounds = join([request("r1"), request("r2")], [impression("r1"), impression("r2")], given)
    assert rounds.reward.tolist() == [1.0, 0.0] and rounds.dropped == {"future_feedback": 1}


@pytest.mark.parametrize(
    ("value", "again"), [(0.1 + 0.2, 0.3), (float(np.float32(0.7)), 0.7), (1e-8, 1e-8 * (1 + 5e-7))]
)
def test_numbers_that_were_rounded_do_not_contradict(value, again):
    """As where one delivery went through float32, or through text."""
    scored = {"candidates": ["a", "c"], "candidate_scores": [value, -value], "epsilon": value, "temperature": value}
    scores = [again, -again]
    requests = [request(**scored), request(**scored | {"candidate_scores": scores, "epsilon": again})]
    shown = [impression(propensity=value), impression(propensity=again)]
    rounds = join(requests, shown, [event("e1") | {"value": value}, event("e1") | {"value": again}])
    assert rounds.dropped == {"repeated_requests": 1, "repeated_impressions": 1, "repeated_feedback": 1}
    assert rounds.propensity.tolist() == [value] and rounds.requests.candidate_scores[0].tolist() == [value, -value]
    for other in (again * 1.00001, 0.0, -again):
        with pytest.raises(DataError, match="must agree"):
            join([request()], [impression(propensity=value)], [event("e1") | {"value": v} for v in (value, other)])


def test_old_requests_without_any_impression_are_counted():
    """Nothing was eligible, or all is lost; of a young one, and one of the future, impressions may still come."""
    requests = [request(), request("r2"), request("young", NOW - DAY_MS + 1), request("future", NOW + 1)]
    assert join(requests, [impression()]).dropped == {"requests_without_impressions": 1}
    assert join([request(timestamp=NOW - DAY_MS)], []).dropped == {"requests_without_impressions": 1}


def test_what_is_asked_at_the_time_of_the_join_is_young():
    assert join([request(timestamp=NOW)], [impression()]).dropped == {"young": 1}


def test_one_long_id_costs_the_others_nothing():
    ids = pa.chunked_array([["b", "a" * 4_000_000, "a", "ü", *map(str, range(20_000)), "a"]])
    tracemalloc.start()
    ranks = _ranks(ids)
    assert tracemalloc.get_traced_memory()[1] < 100e6, "fixed-width text would take 320 GB"
    tracemalloc.stop()
    assert np.argsort(ranks[:4]).tolist() == [2, 1, 0, 3] and ranks[-1] == ranks[2]


def test_requests_of_one_time_are_in_the_order_of_their_ids():
    names = ["r3", "r1", "r2"]
    rounds = join([request(name) for name in names], [impression(name) for name in names])
    assert rounds.requests.request_id.tolist() == ["r1", "r2", "r3"] and rounds.request.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "other"),
    [("candidates", ["c", "a"]), ("candidates", None), ("candidate_scores", [1.5, 0.25]), ("epsilon", 0.5),
     ("temperature", 0.0), ("k", 3), ("policy_version", "v2"), ("arm", "a"), ("history", [])],
)  # fmt: skip
def test_requests_of_one_id_that_contradict_each_other_are_named(column, other):
    scored = {"candidates": ["a", "c"], "candidate_scores": [1.5, 0.5]}
    changed = scored | {column: other} if other is not None else {}
    with pytest.raises(DataError, match=r"request_id 'r1' has .* in row 1 and .* in row 2") as refused:
        join([request("r0"), request(**scored), request(**changed)], [impression()])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("requests", 2, column)


def test_rounds_say_which_feedback_decided():
    given = [event("e1", action="liked", timestamp=DAY_MS + 7), event("e2", action="skipped", timestamp=DAY_MS + 5)]
    rounds = join([request()], [impression(), impression("r1", 1, "b")], given)
    assert rounds.action.tolist() == ["liked", None] and rounds.answered_at.tolist() == [DAY_MS + 7, 0]
    assert rounds.take(np.array([1])).action.tolist() == [None]


def test_late_feedback_does_not_replace_what_came_in_time():
    given = [event("e1", action="liked"), event("e2", action="skipped", timestamp=3 * DAY_MS)]
    assert join([request()], [impression()], given).reward.tolist() == [2.0]


def test_young_impressions_are_left_out_and_never_count_as_zero():
    requests = [request("old", NOW - DAY_MS), request("young", NOW - DAY_MS + 1)]
    shown = [impression("old"), impression("young", 0, "a"), impression("young", 1, "b")]
    answer = [event("e1", "b", request_id="young", timestamp=NOW - 5)]
    only_old = join(requests, shown, answer)
    assert only_old.item_id.tolist() == ["a"] and only_old.dropped == {"young": 2}
    a_day_later = join(requests, shown, answer, now_ms=NOW + DAY_MS)
    assert a_day_later.reward.tolist() == [0.0, 0.0, 1.0] and a_day_later.dropped == {}


def test_what_is_delivered_twice_counts_once():
    once = join([request()], [impression()], [event("e1")])
    twice = join([request()] * 2, [impression()] * 3, [event("e1")] * 2)
    assert len(twice) == 1 and twice.reward.tolist() == once.reward.tolist() == [1.0]
    assert twice.dropped == {"repeated_requests": 1, "repeated_impressions": 2, "repeated_feedback": 1}


def test_rows_that_belong_to_nothing_are_counted():
    rounds = join([request()], [impression(), impression("r9")], [event("e1", "z"), event("e2", request_id="r8")])
    assert len(rounds) == 1
    assert rounds.dropped == {
        "impressions_without_request": 1,
        "feedback_without_impression": 1,
        "feedback_without_request": 1,
    }


def test_what_contradicts_itself_is_named():
    with pytest.raises(DataError) as refused:
        join([request(), request(user_id="u2")], [impression()])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("requests", 1, "user_id")
    with pytest.raises(DataError) as refused:
        join([request()], [impression(), impression("r1", 1, "b"), impression("r1", 0, propensity=0.9)])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("impressions", 2, "propensity")
    with pytest.raises(DataError) as refused:
        join([request()], [impression(), impression("r1", 1, "a")])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("impressions", 1, "item_id")
    with pytest.raises(DataError, match="'applauded'") as refused:
        join([request()], [impression()], [event("e1"), event("e2", action="applauded")])
    assert (refused.value.file, refused.value.row, refused.value.column) == ("feedback", 1, "action")


def test_a_log_without_requests_or_impressions_is_refused(tmp_path):
    events = open_events(str(tmp_path))
    for table, row in (("requests", request()), ("impressions", impression())):
        with pytest.raises(DataError, match=f"no table of {table}") as refused:
            read_rounds(events, rewards=REWARDS, now_ms=NOW)
        assert refused.value.file == events.uri(table)
        events.append(table, [row])
    assert read_rounds(events, rewards=REWARDS, now_ms=NOW).reward.tolist() == [0.0]


def test_reading_by_time_splits_the_rounds(tmp_path):
    events = open_events(str(tmp_path))
    events.append("requests", [request(f"r{n}", DAY_MS + n) for n in range(5)])
    events.append("impressions", [impression(f"r{n}") for n in range(5)])
    versions = events.versions()
    events.append("impressions", [impression("r0", 1, "b")])
    events.append("feedback", [event("e1", request_id="r3", timestamp=DAY_MS + 3)])
    options = {"rewards": REWARDS, "now_ms": NOW}
    early = read_rounds(events, until_ms=DAY_MS + 2, **options)
    late = read_rounds(events, since_ms=DAY_MS + 2, **options)
    assert len(early) == 3 and late.reward.tolist() == [0.0, 1.0, 0.0] and late.dropped == {}
    before = read_rounds(events, versions={**versions, "feedback": None}, **options)
    assert len(before) == 5
    events.append("impressions", [impression("nobody")])
    events.append("feedback", [event("e2", request_id="nobody")])
    late = read_rounds(events, since_ms=DAY_MS + 2, **options)
    assert late.dropped == {"impressions_without_request": 1, "feedback_without_request": 1}


@st.composite
def logs(draw):
    """Small logs in which everything that may happen does: any order, repeats, orphans, ties, late and young rows."""
    times = draw(st.lists(st.integers(SLOW_MS, SLOW_MS + 12), min_size=1, max_size=4))
    requests = [request(f"r{n}", time, f"u{n % 2}") for n, time in enumerate(times)]
    slates = draw(st.lists(st.permutations("abc"), min_size=len(times), max_size=len(times)))
    shown = [impression(f"r{n}", p, item) for n, slate in enumerate(slates) for p, item in enumerate(slate[:2])]
    events = draw(
        st.lists(
            st.builds(
                event,
                st.sampled_from(["e1", "e2", "e3", "e4"]),
                st.sampled_from("abc"),
                st.sampled_from(list(REWARDS)),
                st.integers(SLOW_MS, SLOW_MS + 20) | st.integers(0, 12),
                st.sampled_from(["r0", "r1", "r9"]),
            ),
            max_size=8,
        )
    )
    events = list({row["event_id"]: row for row in events}.values())
    repeats = draw(st.lists(st.sampled_from(shown), max_size=2))
    return draw(st.permutations(requests)), draw(st.permutations(shown + repeats)), draw(st.permutations(events))


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(SLOW_MS + 5, SLOW_MS + 25))
def test_the_join_is_what_the_contract_says(log, now):
    """Against the words of the contract, row by row: times in seconds of the attribution of 4."""
    requests, impressions, feedback = log
    rounds = join(requests, impressions, feedback, now_ms=now, attribution_s=0.004)
    asked = {row["request_id"]: row["timestamp"] for row in requests}
    expected, answered = {}, set()
    for shown in impressions:
        key, at = (shown["request_id"], shown["item_id"]), asked[shown["request_id"]]
        mine = [row for row in feedback if (row["request_id"], row["item_id"]) == key]
        mine = [row for row in mine if -SLOW_MS <= row["timestamp"] - at <= 4 and row["timestamp"] <= now]
        mine.sort(key=lambda row: (row["timestamp"], row["event_id"]))
        answered |= {key} if mine else set()
        if now - at >= 4:
            expected[key] = REWARDS[mine[-1]["action"]] if mine else 0.0
    found = list(zip(rounds.requests.request_id[rounds.request], rounds.item_id, strict=True))
    assert len(found) == len(set(found)), "one round per impression"
    assert dict(zip(found, rounds.reward.tolist(), strict=True)) == expected
    reasons = ("young", "future_impressions", "repeated_impressions")
    n_used = len(expected) + sum(rounds.dropped.get(reason, 0) for reason in reasons)
    assert n_used == len(impressions), "every impression is a round or is counted"
    n_events = sum(count for reason, count in rounds.dropped.items() if "feedback" in reason) + len(answered)
    assert n_events == len(feedback), "every event decides or is counted, once"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("rewards", {"rewards": {"liked": float("nan")}}),
        ("rewards", {"rewards": {"liked": float("inf")}}),
        ("rewards", {"rewards": {"liked": None}}),
        ("rewards", {"rewards": {"liked": "1"}}),
        ("rewards", {"rewards": {"liked": 10**400}}),
        ("rewards", {"rewards": None}),
        ("rewards", {"rewards": ["liked"]}),
        ("attribution_s", {"attribution_s": 0}),
        ("attribution_s", {"attribution_s": -1}),
        *(("attribution_s", {"attribution_s": wrong}) for wrong in (float("nan"), float("inf"), 1e30, "86400", None)),
        ("now_ms", {"now_ms": float("nan")}),
        *(("now_ms", {"now_ms": wrong}) for wrong in (None, True, -1, 10**30)),
    ],
)
def test_settings_that_would_make_rewards_wrong_are_refused(tmp_path, field, given):
    events = open_events(str(tmp_path))
    events.append("requests", [request()])
    events.append("impressions", [impression()])
    with pytest.raises(ConfigError) as refused:
        read_rounds(events, **{"rewards": REWARDS, "now_ms": NOW, **given})
    assert refused.value.field == field
