"""InstaTok's environments keep Gymnasium's contracts, and one session is the same alone and among others."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rec.config import WeightedScoreConfig
from rec.errors import ConfigError
from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.instatok import ACTIONS, InstaTok
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.candidates import ScoredCosine
from rl.instatok.log import log_sessions
from rl.instatok.observation import CANDIDATE_FEATURES
from rl.session_env import SessionEnv, SessionVectorEnv

CONFIG = InstaTokEnvConfig(world=InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=12))


@pytest.fixture(scope="module", params=["memoryless", "fatigue"])
def arena(request):
    world = CONFIG.world.model_copy(update={"dynamics": request.param})
    return Arena.of(CONFIG.model_copy(update={"world": world}))


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_no_fault(arena):
    check_env(SessionEnv(VideoRound(arena, 1)), skip_render_check=True)


def test_side_by_side_is_the_same_as_one_by_one(arena):
    """Equal to Gymnasium's own vector of single environments, through the ends of sessions and new seeds."""
    single = SyncVectorEnv([lambda: SessionEnv(VideoRound(arena, 1))] * 5, autoreset_mode=AutoresetMode.NEXT_STEP)
    vector = SessionVectorEnv(VideoRound(arena, 5))
    assert vector.single_observation_space == single.single_observation_space
    assert vector.observation_space == single.observation_space and vector.action_space == single.action_space
    rng, n_ended = np.random.default_rng(0), 0
    for seed in (3, [9, 9, 8, 7, 2**63], None):
        assert_same(vector.reset(seed=seed), single.reset(seed=seed))
        for _ in range(25):
            actions = rng.integers(0, 30, 5)
            found = vector.step(actions)
            assert_same(found, single.step(actions))
            assert vector.observation_space.contains(found[0])
            n_ended += found[2].sum()
    assert n_ended > 10


def test_a_session_is_the_same_alone_and_among_thousands(arena):
    alone, many = SessionEnv(VideoRound(arena, 1)), SessionVectorEnv(VideoRound(arena, 2000))
    seen, _ = many.reset(seed=50)
    for row in (0, 1234):
        obs, _ = alone.reset(seed=50 + row)
        assert_same(obs, {name: values[row] for name, values in seen.items()})
    obs, done = alone.reset(seed=50 + 1234)[0], False
    rng = np.random.default_rng(1)
    while not done:
        actions = rng.integers(0, 30, 2000)
        seen, rewards, ended, _, _ = many.step(actions)
        obs, reward, done, _, _ = alone.step(actions[1234])
        assert reward == rewards[1234] and done == ended[1234]
        assert_same(obs, {name: values[1234] for name, values in seen.items()})
    with pytest.raises(gymnasium.error.ResetNeeded):
        alone.step(0)


def test_seeds_fix_sessions_and_streams_go_on(arena):
    env = SessionVectorEnv(VideoRound(arena, 64))
    first = env.reset(seed=1)[0]
    later = env.reset()[0]
    assert_same(env.reset(seed=1)[0], first)
    assert_same(env.reset()[0], later)
    assert (first["profile"] != later["profile"]).any()
    unseeded = [SessionVectorEnv(VideoRound(arena, 64)).reset()[0]["profile"] for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_nothing_seen_is_a_candidate_and_the_observation_tells_what_happened(arena):
    world, env = arena.world, SessionVectorEnv(VideoRound(arena, 200))
    log = log_sessions(world).interactions
    history = [set(log.item[log.user == user]) for user in range(world.n_users)]
    obs, _ = env.reset(seed=0)
    shown = [set() for _ in range(200)]
    counts = np.zeros((200, 4), int)
    rng = np.random.default_rng(0)
    for _ in range(6):
        users, ids = env.round.sessions.users.copy(), env.round.candidates.ids.copy()
        live = ~env.round.sessions.done
        for row in np.flatnonzero(live):
            assert len(set(ids[row])) == 30 and not set(ids[row]) & (history[users[row]] | shown[row])
        categories = world.category[ids]
        np.testing.assert_array_equal(obs["candidate_categories"], categories)
        is_interest = (categories[:, :, None] == world.interests[users][:, None]).any(axis=2)
        np.testing.assert_array_equal(obs["candidates"][:, :, CANDIDATE_FEATURES.index("is interest")], is_interest)
        score = obs["candidates"][:, :, CANDIDATE_FEATURES.index("score")]
        assert (np.diff(score, axis=1) <= 0).all()
        choice = rng.integers(0, 30, 200)
        obs, _, _, _, info = env.step(choice)
        for row in np.flatnonzero(live):
            assert info["item"][row] == ids[row, choice[row]]
            shown[row].add(int(info["item"][row]))
            counts[row, info["action"][row]] += 1
            assert obs["last_action"][row] == info["action"][row]
            assert obs["recent_categories"][row, -1] == world.category[info["item"][row]]
            np.testing.assert_allclose(obs["numbers"][row, 1:4], counts[row, :3] / 12, rtol=1e-6)
        for row in np.flatnonzero(~live):
            shown[row], counts[row] = set(), 0
            assert obs["last_action"][row] == len(ACTIONS) and obs["numbers"][row, 0] == 0


def plain_candidates(world, log, user, shown, rewards, k, weights, per_category):
    """The notebook's similarities, the whole matrix built again with what the session added; the best by score."""
    scores = np.zeros((world.n_users, world.n_items))
    values = {"watched": 1, "skipped": -2, "liked": 2, "other": -0.5}
    for row in range(len(log)):
        scores[log.user[row], log.item[row]] += values[ACTIONS[log.action[row]]]
    for item, reward in zip(shown, rewards, strict=True):
        scores[user, item] += reward
    norm = np.linalg.norm(scores, axis=0)
    cosine = scores.T @ scores / np.where(norm > 0, norm, 1)[:, None] / np.where(norm > 0, norm, 1)
    watched = set(log.item[log.user == user].tolist()) | set(shown)
    similarity = scores[user] @ cosine
    views = world.initial_views + np.bincount(log.item, minlength=world.n_items)
    if weights.log_views:
        views = np.log1p(views)
    score = {
        item: weights.similarity_weight * similarity[item]
        + weights.views_weight * views[item]
        + weights.interest_weight * (world.category[item] in world.interests[user])
        for item in range(world.n_items)
        if item not in watched
    }
    best = sorted(score, key=lambda item: (-round(score[item], 10), item))
    first, later, counts = [], [], {}
    for item in best:
        counts[world.category[item]] = counts.get(world.category[item], 0) + 1
        (first if counts[world.category[item]] <= per_category else later).append(item)
    chosen = set((first + later)[:k])
    return [item for item in best if item in chosen], score


@pytest.mark.parametrize(("log_views", "per_category"), [(False, None), (True, None), (True, 4), (True, 1)])
def test_candidates_within_a_session_are_those_of_a_matrix_built_anew(log_views, per_category):
    world = InstaTok(InstaTokConfig(n_users=25, n_videos=150, sessions_per_user=4))
    log, weights = log_sessions(world).interactions, WeightedScoreConfig(log_views=log_views)
    source = ScoredCosine.fit(
        log,
        category=world.category,
        initial_views=world.initial_views,
        is_interest=(world.interests[:, :, None] == np.arange(8)).any(axis=1),
        weights=weights,
        per_category=per_category,
    )
    rng = np.random.default_rng(0)
    for user in range(0, 25, 3):
        shown, rewards = np.full((1, 8), -1), np.zeros((1, 8))
        for step in range(6):
            found = source.find(np.array([user]), shown, rewards, 20)
            expected, score = plain_candidates(
                world, log, user, shown[0, :step].tolist(), rewards[0, :step], 20, weights, per_category or 20
            )
            np.testing.assert_array_equal(found.ids[0], expected)
            np.testing.assert_allclose(found.scores[0], [score[item] for item in expected], atol=1e-9)
            shown[0, step], rewards[0, step] = found.ids[0, rng.integers(20)], rng.choice([1, -2, 2, -0.5])


def test_every_category_is_at_hand_throughout_a_session():
    arena = Arena.of(InstaTokEnvConfig())
    env = SessionVectorEnv(VideoRound(arena, 100))
    seen, _ = env.reset(seed=0)
    for _ in range(30):
        assert all(len(set(row)) == 8 and np.bincount(row).max() == 4 for row in seen["candidate_categories"])
        seen, *_ = env.step(seen["candidates"][:, :, 1].argmax(axis=1))


def test_interests_may_be_predicted_from_the_log():
    """What the log predicts is right more often than two categories of eight drawn by chance, and not always."""
    arena = Arena.of(InstaTokEnvConfig(interests="predicted"))
    named = [arena.source.is_interest[user, arena.world.interests[user]] for user in range(200)]
    assert 0.3 < np.concatenate(named).mean() < 0.9


def test_what_a_session_answers_changes_its_next_candidates():
    arena = Arena.of(InstaTokEnvConfig())
    users = np.arange(200)
    before = arena.source.find(users, np.full((200, 1), -1), np.zeros((200, 1)), 30)
    shown = before.ids[:, :1]
    liked = arena.source.find(users, shown, np.full((200, 1), 2.0), 30)
    skipped = arena.source.find(users, shown, np.full((200, 1), -2.0), 30)
    assert (np.sort(liked.ids) != np.sort(skipped.ids)).any(axis=1).mean() > 0.5


def test_a_catalogue_that_a_session_could_exhaust_is_refused():
    with pytest.raises(ConfigError, match="n_candidates"):
        Arena.of(CONFIG.model_copy(update={"n_candidates": 380}))


def test_an_action_beyond_the_candidates_is_refused(arena):
    env = SessionVectorEnv(VideoRound(arena, 3))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="session 1 was given 30"):
        env.step(np.array([0, 30, 0]))


def assert_same(found, expected):
    """Equal, through tuples and dicts."""
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name, values in expected.items():
            assert_same(found[name], values)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(found, expected)
