"""Slate logs of InstaTok: tables that can be appended, propensities that are true, answers of the world."""

import numpy as np
import pytest

from rec.data.event_rows import SCHEMAS, validated
from rec.data.events import open_events
from rec.data.rounds import read_rounds
from rec.policy import slate_propensities
from rl.config import InstaTokConfig
from rl.instatok import REWARDS, InstaTok
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates

K, N_CANDIDATES, EPSILON, TEMPERATURE = 3, 6, 0.2, 0.05


@pytest.fixture(scope="module")
def world():
    return InstaTok(InstaTokConfig(n_users=50, n_videos=40, max_steps=10, seed=3))


def slates(world, seed=0, n_sessions=3000, **options):
    policy = options.pop("policy", by_category(world.watch_p, N_CANDIDATES))
    chosen = {"k": K, "epsilon": EPSILON, "temperature": TEMPERATURE, **options}
    return log_slates(world, policy, n_sessions=n_sessions, rng=np.random.default_rng(seed), **chosen)


@pytest.fixture(scope="module")
def log(world):
    return slates(world)


@pytest.fixture(scope="module")
def rounds(log, tmp_path_factory):
    events = open_events(str(tmp_path_factory.mktemp("home")))
    log.append_to(events)
    return read_rounds(events, rewards=REWARD_OF, now_ms=2**45)


def test_the_tables_pass_their_checks_and_lose_nothing_in_the_join(log, rounds):
    for name in SCHEMAS:
        assert validated(name, getattr(log, name)).equals(getattr(log, name))
    assert rounds.dropped == {} and len(rounds) == len(log.impressions) == K * len(log.requests)
    assert rounds.reward.sum() == pytest.approx(sum(REWARD_OF[name] for name in log.feedback["action"].to_pylist()))


def test_logged_propensities_are_those_of_the_logged_candidates(world, rounds):
    """From the log alone, `slate_propensities` finds what was recorded when the slates were drawn."""
    place = {item: number for number, item in enumerate(world.item_ids)}
    requests = rounds.requests
    ids = np.vectorize(place.get)(requests.candidates.values).reshape(-1, N_CANDIDATES)
    scores = requests.candidate_scores.values.reshape(-1, N_CANDIDATES)
    shown = np.vectorize(place.get)(rounds.item_id).reshape(-1, K)
    again = slate_propensities(
        scores, ids, shown, rounds.n_eligible.reshape(-1, K), epsilon=EPSILON, temperature=TEMPERATURE
    )
    np.testing.assert_allclose(rounds.propensity.reshape(-1, K), again, rtol=1e-12)
    candidate = (ids[:, None] == shown[:, :, None]).any(axis=2)
    np.testing.assert_array_equal(rounds.source.reshape(-1, K) != "explore", candidate)


def test_the_value_of_another_policy_follows_from_the_top_positions(world, rounds):
    """IPS at position 0, where propensities are exact, against the expected reward of a uniform catalogue."""
    top = rounds.take(rounds.position == 0)
    weight = 1 / world.n_items / top.propensity
    user = np.array([int(name.removeprefix("user-")) for name in top.user_id])
    p = world.watch_p[user] @ world.category_share()
    expected = p * REWARDS[0] + (1 - p) / 3 * REWARDS[1:].sum()
    difference = weight * top.reward - expected
    noise = difference.std(ddof=1) / np.sqrt(len(top))
    assert abs(difference.mean()) < 4 * noise
    assert top.reward.mean() - expected.mean() > 4 * noise, "the logging policy earns more, so weights matter"


def test_users_answer_from_the_top_until_they_leave(log, rounds):
    answered = np.isin(
        [f"{r}/{i}" for r, i in zip(rounds.requests.request_id[rounds.request], rounds.item_id, strict=True)],
        [f"{row['request_id']}/{row['item_id']}" for row in log.feedback.to_pylist()],
    ).reshape(-1, K)
    assert (answered[:, 1:] <= answered[:, :-1]).all() and answered[:, 0].all()
    assert not answered.all() and (rounds.reward.reshape(-1, K)[~answered] == 0).all()


def test_history_is_what_the_user_liked_before(log):
    liked = {"watched", "liked"}
    asked = {row["request_id"]: row for row in log.requests.to_pylist()}
    taken = {}
    for row in sorted(log.feedback.to_pylist(), key=lambda row: row["timestamp"]):
        if row["action"] in liked:
            taken.setdefault(asked[row["request_id"]]["user_id"], []).append((row["timestamp"], row["item_id"]))
    for row in log.requests.to_pylist()[::37]:
        before = [item for at, item in taken.get(row["user_id"], []) if at < row["timestamp"]]
        assert row["history"] == before[-50:]


def test_the_seed_fixes_the_log_and_candidates_may_be_sampled_off(world, log):
    assert slates(world).impressions.equals(log.impressions)
    bare = slates(world, n_sessions=20, log_candidates=False, max_requests=1)
    assert bare.requests["candidates"].null_count == len(bare.requests) == 20
    assert not slates(world, seed=1, n_sessions=20).impressions.equals(slates(world, seed=2, n_sessions=20).impressions)
