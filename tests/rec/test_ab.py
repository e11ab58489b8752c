"""Arms compared: known answers, errors that cover, and users as the units."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rec.ab import ArmRequests, compare
from rec.data.event_rows import validated
from rec.data.rounds import join_rounds
from rec.errors import ConfigError, DataError
from rec.metrics import paired_difference

DAY_MS = 86_400_000
METRICS = ["reward_per_request", "reward_per_user", "requests_per_user", "degraded"]


def requests_of(rows: list[tuple[str, str, float]]) -> ArmRequests:
    """From (user, arm, reward)."""
    users, arms, rewards = zip(*rows, strict=True)
    return ArmRequests(
        np.array(users, object), np.array(arms, object), np.array(rewards, float), np.zeros(len(rows), bool)
    )


def by_metric(found: Any) -> dict[str, Any]:
    return {difference.metric: difference for difference in found.differences}


def simulated(rng: np.random.Generator, *, lift: float = 0.0, n_users: int = 200, share: float = 0.3) -> ArmRequests:
    """Users who differ in taste and come one to six times; those of arm b earn `lift` more a request."""
    taste, visits = rng.normal(size=n_users), rng.integers(1, 7, n_users)
    in_b = rng.random(n_users) < share
    user = np.repeat(np.arange(n_users), visits)
    reward = taste[user] + rng.normal(size=len(user)) + lift * in_b[user]
    arm = np.where(in_b[user], "b", "a").astype(object)
    return ArmRequests(user.astype(str).astype(object), arm, reward, np.zeros(len(user), bool))


def test_an_example_by_hand():
    # a: users u (1, 3) and v (2): 6 over 3 requests, 2 users; b: user w (5), user x (0, 1): 6 over 3 requests.
    found = compare(
        requests_of([("u", "a", 1), ("u", "a", 3), ("v", "a", 2), ("w", "b", 5), ("x", "b", 0), ("x", "b", 1)]),
        baseline="a",
    )
    assert [estimate.value for estimate in found.arms["a"].values()] == [2.0, 3.0, 1.5, 0.0]
    assert list(found.arms) == ["a", "b"] and list(found.arms["b"]) == METRICS
    assert found.n_users == {"a": 2, "b": 2} and found.n_shared == 0 and found.mismatch_p is None
    # Residuals from the mean of 2: u 0, v 0; so its error is 0. In b: w 3, x -3; CR1: sqrt(2 * 18) / 3 = 2.
    assert found.arms["a"]["reward_per_request"].std_error == 0.0
    assert found.arms["b"]["reward_per_request"].std_error == pytest.approx(2.0)
    difference = by_metric(found)["reward_per_request"]
    assert (difference.difference, difference.std_error) == (0.0, pytest.approx(2.0))
    assert difference.p_value == 1.0


def test_the_order_of_rows_and_the_names_of_users_do_not_matter(rng: np.random.Generator):
    requests = simulated(rng)
    order = rng.permutation(len(requests))
    shuffled = ArmRequests(*(getattr(requests, name)[order] for name in ("user_id", "arm", "reward", "degraded")))
    renamed = replace(shuffled, user_id=np.array([f"z{user[::-1]}q{user}" for user in shuffled.user_id], object))
    ours, theirs = (by_metric(compare(each, baseline="a")) for each in (requests, renamed))
    for metric in METRICS:
        assert ours[metric].difference == pytest.approx(theirs[metric].difference, abs=1e-12)
        assert ours[metric].std_error == pytest.approx(theirs[metric].std_error, abs=1e-12)


def test_swapping_the_arms_turns_the_sign(rng: np.random.Generator):
    requests = simulated(rng)
    ours, theirs = by_metric(compare(requests, baseline="a")), by_metric(compare(requests, baseline="b"))
    for metric in METRICS:
        assert ours[metric].difference == pytest.approx(-theirs[metric].difference)
        assert ours[metric].p_value == pytest.approx(theirs[metric].p_value)


def test_a_user_who_comes_in_copies_counts_once():
    """Doubling every request of every user leaves value and error per request as they are."""
    rng = np.random.default_rng(5)
    requests = simulated(rng)
    doubled = requests.take(np.ones(len(requests), bool))
    doubled = ArmRequests(
        *(np.concatenate([getattr(doubled, n)] * 2) for n in ("user_id", "arm", "reward", "degraded"))
    )
    ours, theirs = (by_metric(compare(each, baseline="a"))["reward_per_request"] for each in (requests, doubled))
    assert ours.difference == pytest.approx(theirs.difference)
    assert ours.std_error == pytest.approx(theirs.std_error)


def test_users_in_both_arms_make_it_a_paired_test(rng: np.random.Generator):
    """When everybody is in both arms once, the error of the difference is that of Student's paired test."""
    n = 50
    taste = rng.normal(size=n) * 5
    a, b = taste + rng.normal(size=n), taste + rng.normal(size=n)
    users = [f"u{number}" for number in range(n)]
    rows = [*zip(users, "a" * n, a, strict=True), *zip(users, "b" * n, b, strict=True)]
    found = compare(requests_of(rows), baseline="a")
    ours, paired = by_metric(found)["reward_per_request"], paired_difference(b, a)
    assert found.n_shared == n
    assert ours.difference == pytest.approx(paired.difference)
    # The covariance has C where Student's has C - 1; that of tastes is 25 times all else.
    assert ours.std_error is not None
    unpaired = (a.var(ddof=1) / n + b.var(ddof=1) / n) ** 0.5
    by_hand = (unpaired**2 - 2 * np.mean((a - a.mean()) * (b - b.mean())) / n) ** 0.5
    assert ours.std_error == pytest.approx(by_hand)
    assert ours.std_error < unpaired / 2


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Four standard errors of a share of .95 over 400 experiments are .044; a test by rows would cover about .7."""
    lift, n_experiments = 0.4, 400
    covered, by_rows = 0, 0
    for seed in range(n_experiments):
        rng = np.random.default_rng(seed)
        requests = simulated(rng, lift=lift)
        interval = by_metric(compare(requests, baseline="a"))["reward_per_request"].interval
        covered += interval.low <= lift <= interval.high
        assert interval.method == "student_t"
        in_b = requests.arm == "b"
        naive = np.sqrt(sum(part.var(ddof=1) / len(part) for part in (requests.reward[in_b], requests.reward[~in_b])))
        by_rows += abs(requests.reward[in_b].mean() - requests.reward[~in_b].mean() - lift) <= 1.96 * naive
    assert abs(covered / n_experiments - 0.95) <= 0.044
    assert by_rows / n_experiments < 0.9, "rows as units would be wrong here, or this test shows nothing"


def test_users_divided_unlike_the_shares_are_seen(rng: np.random.Generator):
    requests = simulated(rng, n_users=2_000, share=0.3)
    right = compare(requests, baseline="a", shares={"a": 0.7, "b": 0.3}).mismatch_p
    wrong = compare(requests, baseline="a", shares={"a": 0.5, "b": 0.5}).mismatch_p
    assert right is not None and wrong is not None and right > 0.001 > wrong


@pytest.mark.parametrize("shares", [{"a": 1.0}, {"a": 0.5, "b": 0.4}, {"a": 0.5, "c": 0.5}, {"a": 1.5, "b": -0.5}])
def test_shares_of_something_else_are_refused(shares: dict[str, float]):
    with pytest.raises(ConfigError, match="share above 0 of each arm"):
        compare(requests_of([("u", "a", 1), ("v", "b", 1)]), baseline="a", shares=shares)


@pytest.mark.parametrize("baseline", ["a", "b", "champion"])
def test_a_single_arm_or_another_baseline_is_refused(baseline: str):
    with pytest.raises(DataError, match="two arms"):
        compare(requests_of([("u", "a", 1), ("v", "a", 1)]), baseline=baseline)


def test_one_user_an_arm_has_no_interval():
    found = compare(requests_of([("u", "a", 1), ("v", "b", 2)]), baseline="a")
    difference = by_metric(found)["reward_per_request"]
    assert (difference.difference, difference.std_error, difference.interval) == (1.0, None, None)


def test_requests_earn_what_their_slates_do_and_empty_ones_nothing():
    def request(name: str, at_ms: int = DAY_MS, **values: Any) -> dict[str, Any]:
        row = {"request_id": name, "timestamp": at_ms, "user_id": f"u{name}", "policy_version": "v", "arm": "a"}
        row |= {"epsilon": 0.1, "temperature": 1.0, "k": 2, "degraded": False, "context": "{}", "history": []}
        return row | values

    shown = {"source": "x", "propensity": 0.5, "n_eligible": 9}
    impressions = [
        {"request_id": "1", "position": 0, "item_id": "i", **shown},
        {"request_id": "1", "position": 1, "item_id": "j", **shown},
        {"request_id": "2", "position": 0, "item_id": "i", **shown},
    ]
    events = [
        {"event_id": f"e{item}", "request_id": "1", "item_id": item, "action": "liked"}
        | {"timestamp": DAY_MS + 1, "received_at": DAY_MS + 1}
        for item in ("i", "j")
    ]
    requests = [
        request("1"), request("2", arm="b"), request("3", arm="b", degraded=True), request("4", at_ms=3 * DAY_MS)
    ]  # fmt: skip
    tables = (validated("requests", requests), validated("impressions", impressions), validated("feedback", events))
    rounds = join_rounds(*tables, rewards={"liked": 2.0}, now_ms=3 * DAY_MS)
    found = ArmRequests.of(rounds, now_ms=3 * DAY_MS)
    assert found.user_id.tolist() == ["u1", "u2", "u3"]
    assert found.arm.tolist() == ["a", "b", "b"]
    assert found.reward.tolist() == [4.0, 0.0, 0.0]
    assert found.degraded.tolist() == [False, False, True]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)
