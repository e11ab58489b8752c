"""Plans against enumeration, against worlds without memory, and against sessions played."""

import numpy as np
import pytest

from rec.errors import ConfigError
from rl.config import InstaTokConfig
from rl.instatok import InstaTok, Sessions, best_category, play, session_value, true_value
from rl.instatok.planning import Plan, category_values
from rl.instatok.world import FATIGUE_DROP, FATIGUE_WINDOW, fatigued_watch_probability, watch_probability


@pytest.fixture(scope="module")
def world():
    return InstaTok(InstaTokConfig(dynamics="fatigue", seed=0))


@pytest.fixture(scope="module")
def plans(world):
    return {"best": Plan.of(world), "myopic": Plan.of(world, myopic=True)}


def worth_of(watch_p, shown, steps_left, window, *, myopic):
    """Expectimax over whole histories, written from the definition: no states, no tables."""
    if not steps_left:
        return 0.0
    p = [watch_p[c][shown[-window:].count(c)] for c in range(len(watch_p))]
    worth = []
    for category, watched in enumerate(p):
        if myopic and watched < max(p):
            continue
        rest = worth_of(watch_p, [*shown, category], steps_left - 1, window, myopic=myopic)
        skipped, liked, left = ((1 - watched) / 3,) * 3
        worth.append(watched * (1 + rest) + skipped * (-2 + rest) + liked * (2 + rest) + left * -0.5)
    return max(worth)


@pytest.mark.parametrize("myopic", [False, True])
@pytest.mark.parametrize(("n_categories", "window", "max_steps"), [(2, 2, 8), (3, 1, 6), (3, 2, 6), (2, 5, 4)])
def test_values_are_those_of_enumeration(n_categories, window, max_steps, myopic):
    rng = np.random.default_rng(n_categories + window)
    watch_p = -np.sort(-rng.uniform(0.1, 0.9, (3, n_categories, window + 1)), axis=2)
    watch_p[0, 1] = watch_p[0, 0]  # two categories that tie at first
    values = category_values(watch_p, max_steps, myopic=myopic)
    for kind in range(3):
        expected = worth_of(watch_p[kind].tolist(), [], max_steps, window, myopic=myopic)
        assert values[0][kind, 0] == pytest.approx(expected, rel=1e-12)
    shown, number = [1, 0, 1][-window:], 0
    for category in shown:
        number = number * n_categories + category
    step = len(shown)
    for kind in range(3):
        expected = worth_of(watch_p[kind].tolist(), shown, max_steps - step, window, myopic=myopic)
        assert values[step][kind, number] == pytest.approx(expected, rel=1e-12)


def test_fatigue_lowers_the_probability_of_a_step_by_a_tenth_a_repeat():
    moods = (np.arange(100_000) + 0.5) / 100_000
    lift, drop = np.array([0.0, 0.3, 0.4, 0.0]), np.array([0.0, 0.0, 0.2, 0.2])
    found = fatigued_watch_probability(lift, drop)
    assert found.shape == (4, FATIGUE_WINDOW + 1)
    for repeats in range(FATIGUE_WINDOW + 1):
        fresh = watch_probability(moods[:, None], lift, drop)
        tired = np.clip(fresh - FATIGUE_DROP * repeats, 0, 1)
        np.testing.assert_allclose(found[:, repeats], tired.mean(axis=0), atol=1e-6)


def test_where_nobody_tires_a_plan_is_worth_the_best_category():
    world = InstaTok(InstaTokConfig(n_users=30, n_videos=100))
    np.testing.assert_allclose(Plan.of(world).value, _best(world))
    np.testing.assert_allclose(Plan.of(world, myopic=True).value, _best(world))


def _best(world):
    return session_value(world.watch_p, world.config.max_steps).reward.max(axis=1)


@pytest.mark.parametrize("name", ["best", "myopic"])
def test_sessions_played_earn_what_the_plan_says(world, plans, name):
    users = np.arange(world.n_users).repeat(100)
    played = play(world, users, plans[name].policy(), np.random.default_rng(3)).total_reward
    expected = plans[name].value[users]
    assert (played - expected).mean() == pytest.approx(0, abs=4 * played.std() / np.sqrt(len(played)))


def test_foresight_pays_and_stubbornness_does_not(world, plans):
    """Worth of the whole population: best 5.01, best myopic 4.81; the best category for ever about 2.5."""
    assert (plans["best"].value >= plans["myopic"].value - 1e-12).all()
    assert plans["best"].value.mean() == pytest.approx(5.01, abs=0.05)
    assert plans["best"].value.mean() - plans["myopic"].value.mean() > 0.15
    users = np.arange(world.n_users).repeat(20)
    stubborn = play(world, users, best_category, np.random.default_rng(0)).total_reward
    assert stubborn.mean() < plans["myopic"].value.mean() - 1


def test_values_of_categories_agree_with_the_values_of_states(world, plans):
    """The best of what categories are worth is what the state is worth, at any step of a session under way."""
    sessions, rng = Sessions(world, np.arange(world.n_users)), np.random.default_rng(5)
    plan = plans["best"]
    for step in range(9):
        live = ~sessions.done
        number = np.zeros(len(sessions), np.int64)
        for category in sessions.recent.T:
            rank = plan.rank[sessions.users, np.maximum(category, 0)]
            number = np.where(category >= 0, number * 8 + rank, number)
        state = plan.values[step][plan.kind, number]
        np.testing.assert_allclose(plan.category_values(sessions).max(axis=1)[live], state[live])
        sessions.view(rng.integers(0, world.n_items, len(sessions)), rng)
    assert live.sum() > 10


@pytest.mark.parametrize("name", ["best", "myopic"])
def test_what_a_policy_gives_up_is_what_it_earns_less(world, plans, name):
    """The sum of regrets has the expectation that values differ by: the lemma of performance differences."""
    users, policy = np.arange(world.n_users).repeat(20), plans[name].policy()
    given_up = np.zeros(len(users))

    def noting(sessions, rng):
        items = policy(sessions, rng)
        given_up[:] += plans["best"].regret(sessions, world.category[items])
        return items

    play(world, users, noting, np.random.default_rng(4))
    less = given_up - (plans["best"].value - plans[name].value)[users]
    assert less.mean() == pytest.approx(0, abs=4 * less.std() / np.sqrt(len(less)) + 1e-9)


def test_a_session_that_is_over_still_has_a_choice(world, plans):
    short = InstaTok(world.config.model_copy(update={"max_steps": 3}))
    for plan in (Plan.of(short), plans["best"]):
        sessions = play(short, np.arange(200), plan.policy(), np.random.default_rng(0))
        assert np.isfinite(plan.category_values(sessions)).all()


def test_closed_form_values_are_refused_where_users_tire(world):
    with pytest.raises(ConfigError, match="dynamics"):
        true_value(world)
