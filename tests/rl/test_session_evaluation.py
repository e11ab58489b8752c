"""Policies are judged in the same sessions, and what knows the world earns what theory says."""

import numpy as np
import pytest

from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.planning import Plan
from rl.instatok.slot_policies import baselines
from rl.instatok.values import session_value
from rl.session_evaluation import best_by, compare, evaluation_seeds, play_sessions, to_json

SMALL = InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=12)


@pytest.fixture(scope="module", params=["memoryless", "fatigue"])
def played(request):
    world = SMALL.model_copy(update={"dynamics": request.param})
    arena, seeds = Arena.of(InstaTokEnvConfig(world=world)), evaluation_seeds(0, 2000)
    return arena, compare(arena, baselines(arena, seeds), seeds)


def test_who_knows_the_world_earns_its_value(played):
    """Every category is at hand, so the oracle's expected reward is the plan's, or the best category's."""
    arena, results = played
    world = arena.world
    users = users_of(arena, 2000)
    if world.fatigued_p is None:
        expected = {"oracle": session_value(world.watch_p.max(axis=1), 12).reward}
    else:
        expected = {"oracle": Plan.of(world).value, "myopic": Plan.of(world, myopic=True).value}
    for name, values in expected.items():
        error = results[name].reward - values[users]
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))


def users_of(arena, n):
    videos = VideoRound(arena, n)
    videos.seed(np.arange(n), evaluation_seeds(0, n))
    videos.start(np.arange(n))
    return videos.users.copy()


def test_nobody_beats_the_oracle_and_random_is_last_of_those_that_know_something(played):
    _, results = played
    means = {name: each.reward.mean() for name, each in results.items()}
    assert max(means, key=lambda name: means[name]) in ("oracle", "myopic")
    assert means["greedy"] > means["random"]


def test_the_same_sessions_give_a_policy_the_same_answers(played):
    arena, results = played
    seeds = evaluation_seeds(0, 2000)
    again = play_sessions(arena, baselines(arena, seeds[:50])["greedy"], seeds[:50])
    np.testing.assert_array_equal(again.reward, results["greedy"].reward[:50])


def test_rates_are_those_of_what_was_shown(played):
    """Always the same category: every video but the first repeats one; a session ends by its user or its length."""
    arena = played[0]
    of_first = best_by(lambda seen, videos: seen["candidate_categories"] == arena.world.interests[videos.users, :1])
    each = play_sessions(arena, of_first, evaluation_seeds(1, 300))
    np.testing.assert_allclose(each.repeats, (each.videos - 1) / each.videos)
    assert (each.quit[each.videos < 12] == 1).all() and 0 < each.quit[each.videos == 12].mean() < 1


def test_differences_are_of_the_same_sessions(played):
    _, results = played
    told = to_json(results, against="oracle")
    assert [pair["b"] for pair in told["paired"]] == [name for name in results if name != "oracle"]
    pair = next(pair for pair in told["paired"] if pair["b"] == "random")
    difference = results["oracle"].reward - results["random"].reward
    assert pair["difference"] == pytest.approx(difference.mean())
    assert pair["low"] < difference.mean() < pair["high"]
