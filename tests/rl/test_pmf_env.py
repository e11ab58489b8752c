"""Sessions of ratings: hand-computed rewards, no item twice, the same alone and among others, and nothing leaks."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rec.data.dataset import Interactions
from rec.data.splits import per_user_temporal
from rec.errors import ConfigError, DataError
from rl.config import PMFConfig, RatingEnvConfig, RatingNeighborsConfig
from rl.pmf import MatrixFactorisation
from rl.pmf_env import RatingRound, RatingWorld, latest_liked, reward_of
from rl.rating_neighbors import RatingNeighbors
from rl.session_env import SessionEnv, SessionVectorEnv

N_USERS, N_ITEMS, N_RATINGS, DIM = 30, 60, 500, 4


def log_of(rows, n_users, n_items):
    """Rows of user, item, rating, and their place as the time."""
    user, item, rating = np.array(rows).T
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(n_users)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(n_items)], dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=np.arange(len(rows)) * 1000,
        rating=rating.astype(np.float32),
    )


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    pairs = rng.choice(N_USERS * N_ITEMS, N_RATINGS, replace=False)
    return log_of(
        np.stack([pairs // N_ITEMS, pairs % N_ITEMS, rng.integers(1, 6, N_RATINGS)], axis=1), N_USERS, N_ITEMS
    )


@pytest.fixture(scope="module")
def model(known):
    return MatrixFactorisation.fit(known, PMFConfig(dim=DIM, max_epochs=5))


@pytest.fixture(scope="module")
def world(known, model):
    return RatingWorld.of(known, model, RatingEnvConfig(noise=0.5))


@pytest.fixture(params=["items", "vectors"])
def vectors(request, model):
    return model.item_factors if request.param == "vectors" else None


class Constant:
    """Predicts one rating."""

    def __init__(self, rating):
        self.rating = rating

    def predict(self, users, items):
        return np.full(np.broadcast(users, items).shape, float(self.rating))


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_no_fault(world, model):
    check_env(SessionEnv(RatingRound(world, 1, model.item_factors)), skip_render_check=True)
    env = SessionEnv(RatingRound(world, 1))
    env.action_space.seed(0)
    check_env(env, skip_render_check=True)


def actions_of(round_, rng, vectors):
    if vectors is not None:
        return rng.uniform(-1, 1, (len(round_.users), DIM)).astype(np.float32)
    return round_.best(rng.random((len(round_.users), N_ITEMS)))


def test_side_by_side_is_the_same_as_one_by_one(world, vectors):
    single = SyncVectorEnv(
        [lambda: SessionEnv(RatingRound(world, 1, vectors))] * 4, autoreset_mode=AutoresetMode.NEXT_STEP
    )
    vector = SessionVectorEnv(RatingRound(world, 4, vectors))
    assert vector.observation_space == single.observation_space and vector.action_space == single.action_space
    rng = np.random.default_rng(0)
    for seed in (3, [9, 9, 8, 2**63], None):
        assert_same(vector.reset(seed=seed), single.reset(seed=seed))
        for _ in range(23):
            actions = actions_of(vector.round, rng, vectors)
            found = vector.step(actions)
            assert_same(found, single.step(actions))
            assert vector.observation_space.contains(found[0])


def test_a_session_is_the_same_alone_and_among_thousands(world, model):
    alone = SessionEnv(RatingRound(world, 1, model.item_factors))
    many = SessionVectorEnv(RatingRound(world, 3000, model.item_factors))
    seen, _ = many.reset(seed=7)
    obs, _ = alone.reset(seed=7 + 2100)
    rng = np.random.default_rng(0)
    for _ in range(10):
        assert_same(obs, {name: values[2100] for name, values in seen.items()})
        actions = rng.uniform(-1, 1, (3000, DIM)).astype(np.float32)
        obs, reward, done, _, _ = alone.step(actions[2100])
        seen, rewards, ended, _, _ = many.step(actions)
        assert reward == rewards[2100] and done == ended[2100]
    assert done


def test_ten_items_none_twice_and_none_of_the_history(world, vectors):
    env = SessionVectorEnv(RatingRound(world, 300, vectors))
    obs, _ = env.reset(seed=0)
    rng, items = np.random.default_rng(1), []
    for step in range(10):
        obs, _, ended, truncated, info = env.step(actions_of(env.round, rng, vectors))
        items.append(info["item"])
        assert (ended == (step == 9)).all() and not truncated.any()
    for row, shown in enumerate(np.stack(items, axis=1)):
        first = obs["first_history"][row]
        assert len(set(shown)) == 10 and not set(shown) & set(first)
        np.testing.assert_array_equal(obs["shown"][row], shown)
    _, rewards, ended, _, info = env.step(actions_of(env.round, rng, vectors))
    assert (rewards == 0).all() and not ended.any() and "item" not in info


def test_rewards_and_histories_worked_by_hand():
    """User 0 rated items 0..3 with 5, 2, 4, 4; everything else is predicted as 3.5 or 2."""
    known = log_of([(0, 0, 5), (0, 1, 2), (0, 2, 4), (0, 3, 4), (1, 4, 1), (1, 5, 3), (1, 6, 5), (1, 7, 1)], 2, 9)
    np.testing.assert_array_equal(latest_liked(known, 2), [[2, 3], [9, 6]])
    config = RatingEnvConfig(history_length=2, session_length=4)
    for predicted, reward in ((3.5, 0.25), (2.0, -0.5)):
        round_ = RatingRound(RatingWorld.of(known, Constant(predicted), config), 1)
        round_.seed(np.array([0]), np.array([0], np.uint64))
        round_.start(np.array([0]))
        while round_.users[0]:
            round_.start(np.array([0]))
        # Items 2 and 3 are its history, 8 was rated by nobody.
        np.testing.assert_array_equal(np.flatnonzero(round_.available()[0]), [0, 1, 4, 5, 6, 7])
        assert round_.act(np.array([0])).reward[0] == 1.0  # rated 5
        np.testing.assert_array_equal(round_.history[0], [3, 0])
        assert round_.act(np.array([1])).reward[0] == -0.5  # rated 2: no part of the history
        np.testing.assert_array_equal(round_.history[0], [3, 0])
        assert round_.act(np.array([6])).reward[0] == reward
        np.testing.assert_array_equal(round_.history[0], [0, 6] if reward > 0 else [3, 0])
        for item in (0, 2, 8, 9, -1):
            with pytest.raises(ValueError, match="session 0 was given"):
                round_.act(np.array([item]))
        assert round_.act(np.array([7])).done[0]


def test_rewards_of_the_scale():
    np.testing.assert_array_equal(reward_of(np.array([1.0, 2, 3, 4, 5])), [-1, -0.5, 0, 0.5, 1])


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_noise_is_on_what_is_predicted_only_and_as_large_as_said(known, noise):
    world = RatingWorld.of(known, Constant(3.0), RatingEnvConfig(noise=noise))
    points = (np.arange(20_000) + 0.5) / 20_000
    pairs = known.user.astype(int) * N_ITEMS + known.item
    unknown = np.setdiff1d(np.arange(N_USERS * N_ITEMS), pairs)[0]
    drawn = world.rate(np.full(20_000, unknown // N_ITEMS), np.full(20_000, unknown % N_ITEMS), points)
    assert drawn.mean() == pytest.approx(3.0, abs=1e-9)
    normal = np.clip(noise * np.random.default_rng(0).normal(size=400_000), -2, 2)
    assert drawn.std() == pytest.approx(normal.std(), abs=0.01)
    as_rated = world.rate(known.user.astype(int), known.item.astype(int), points[:N_RATINGS])
    np.testing.assert_array_equal(as_rated, known.rating)
    assert np.isfinite(world.rate(np.array([0]), np.array([0]), np.zeros(1))).all()


def test_a_ranking_vector_recommends_the_available_item_of_the_highest_product(world, model):
    round_ = RatingRound(world, 50, model.item_factors)
    round_.seed(np.arange(50), np.arange(50).astype(np.uint64))
    round_.start(np.arange(50))
    vectors = np.random.default_rng(0).uniform(-1, 1, (50, DIM)).astype(np.float32)
    for _ in range(3):
        available = round_.available()
        items = round_.act(vectors).info["item"]
        for row in range(50):
            product = {item: vectors[row] @ round_.vectors[item] for item in np.flatnonzero(available[row])}
            assert product[items[row]] == pytest.approx(max(product.values()), rel=1e-5)


@pytest.mark.parametrize("family", ["factors", "neighbors"])
def test_nothing_of_the_test_ratings_leaks(known, family):
    """Worlds of two logs that differ in their test rows alone are the same, factors, histories and rewards included."""
    split = per_user_temporal(known, 0.8)
    rng = np.random.default_rng(5)
    n_test = len(split.test)
    forged = replace(split.test, rating=rng.integers(1, 6, n_test).astype(np.float32), timestamp=np.zeros(n_test, int))
    both = [np.concatenate([getattr(split.train, name), getattr(forged, name)]) for name in ("user", "item", "rating")]
    time = np.concatenate([split.train.timestamp, split.test.timestamp])
    other = replace(known, user=both[0], item=both[1], rating=both[2], timestamp=time)
    outcomes = []
    for log in (known, other):
        train = per_user_temporal(log, 0.8).train
        order = np.lexsort((train.item, train.user))
        train = train.take(order)
        if family == "factors":
            model = MatrixFactorisation.fit(train, PMFConfig(dim=DIM, max_epochs=4))
        else:
            model = RatingNeighbors.fit(train, RatingNeighborsConfig(n_neighbors=10))
        env = SessionVectorEnv(RatingRound(RatingWorld.of(train, model, RatingEnvConfig(noise=1.0)), 100))
        trace = [env.reset(seed=0)]
        for step in range(10):
            trace.append(env.step(env.round.best(np.random.default_rng(step).random((100, N_ITEMS)))))
        outcomes.append((trace, model.predict(np.arange(N_USERS)[:, None], np.arange(N_ITEMS))))
    assert_same(outcomes[0][1], outcomes[1][1])
    for one, two in zip(outcomes[0][0], outcomes[1][0], strict=True):
        assert_same(one, two)
    held = RatingWorld.of(split.train, Constant(3.0), RatingEnvConfig())
    rated = held.rate(split.test.user.astype(int), split.test.item.astype(int), np.zeros(n_test))
    assert (rated == 3.0).all()


def test_what_cannot_be_a_world_is_refused(known, model):
    with pytest.raises(ConfigError, match="session_length"):
        RatingWorld.of(known, model, RatingEnvConfig(session_length=60))
    with pytest.raises(DataError, match="ratings are required"):
        RatingWorld.of(replace(known, rating=None), model, RatingEnvConfig())


@pytest.mark.parametrize("off", [0.5, 6.0, np.nan])
def test_ratings_off_the_scale_are_refused(known, model, off):
    ratings = known.rating.copy()
    ratings[7] = off
    wrong = replace(known, rating=ratings)
    message = rf"from 1 to 5 are required; found {off:g}, of user 'u{known.user[7]}' and item 'i{known.item[7]}' \(1 of"
    with pytest.raises(DataError, match=message):
        RatingWorld.of(wrong, model, RatingEnvConfig())
    early, late = np.arange(100), np.arange(100, N_RATINGS)
    for first, second in ((early, late), (late, early)):
        with pytest.raises(DataError, match=message):
            RatingWorld.logged(wrong.take(first), wrong.take(second), model, RatingEnvConfig())


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


@pytest.fixture(scope="module")
def logged(known, model):
    split = per_user_temporal(known, 0.6)
    config = RatingEnvConfig(history_length=3, session_length=5)
    return split, RatingWorld.logged(split.train, split.test, model, config)


def test_a_logged_session_recommends_each_users_own_later_items_with_their_ratings(logged):
    split, world = logged
    rows = zip(split.test.user.tolist(), split.test.item.tolist(), split.test.rating.tolist(), strict=True)
    later = {(user, item): rating for user, item, rating in rows}
    round_ = RatingRound(world, len(world.users))
    rows = np.arange(len(world.users))
    round_.seed(rows, rows.astype(np.uint64))
    round_.begin(rows, world.users)
    np.testing.assert_array_equal(round_.history, latest_liked(split.train, 3)[world.users])
    shown = {int(user): [] for user in world.users}
    scores = np.random.default_rng(0).random((len(rows), N_ITEMS))
    while not round_.done.all():
        live = ~round_.done
        outcome = round_.act(round_.best(scores))
        for row in np.flatnonzero(live):
            pair = int(round_.users[row]), int(outcome.info["item"][row])
            assert outcome.reward[row] == (later[pair] - 3) / 2
            shown[pair[0]].append(pair[1])
    for user, items in shown.items():
        own = [item for rated_by, item in later if rated_by == user]
        assert len(items) == len(set(items)) == min(5, len(own)) and set(items) <= set(own)


def test_a_pair_rated_twice_is_refused_by_name(known, model):
    first, others = known.take(np.array([0])), known.take(np.arange(1, N_RATINGS))
    message = f"user 'u{known.user[0]}' rated item 'i{known.item[0]}' twice"
    for earlier, later in ((first, known), (others, known.take(np.array([0, 0])))):
        with pytest.raises(DataError, match=message):
            RatingWorld.logged(earlier, later, model, RatingEnvConfig())
    with pytest.raises(DataError, match=message):
        RatingWorld.of(known.take(np.append(np.arange(N_RATINGS), 0)), model, RatingEnvConfig())


def test_the_switch_of_a_ranking_vector_recommends_any_available_item(logged, model):
    """1,000 sessions of one user with 12 items: each is drawn about 83 times; without the switch one item always is."""
    _, world = logged
    user = int(np.bincount(world.rated // N_ITEMS).argmax())
    n = int((world.rated // N_ITEMS == user).sum())
    round_ = RatingRound(world, 1000, model.item_factors)
    rows = np.arange(1000)
    round_.seed(rows, rows.astype(np.uint64))
    vector = np.ones((1000, DIM + 1), np.float32)
    counts = []
    for switch in (1.0, 0.0):
        round_.start(rows)
        round_.begin(rows, np.full(1000, user))
        vector[:, -1] = switch
        items = round_.act(vector).info["item"]
        counts.append(np.bincount(items, minlength=N_ITEMS))
    assert (counts[0] > 0).sum() == n and counts[0].max() < 1000 / n + 5 * (1000 / n) ** 0.5
    assert (counts[1] > 0).sum() == 1
