"""A source of rec.retrieval, asked in the middle of sessions, answers as it does for a user of that history."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rec.errors import ConfigError
from rec.retrieval.ease import EASE
from rec.state import UserStates
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.log import log_sessions
from rl.instatok.source_candidates import SourceCandidates
from rl.session_env import SessionEnv

HISTORY = 4


def state_of(user, history, excluded):
    """One user, from the definition."""
    history = [-1] * (HISTORY - len(history)) + list(history)[-HISTORY:]
    return UserStates(
        user=np.array([user], np.int32),
        at_ms=np.zeros(1, np.int64),
        history=np.array([history[-HISTORY:]], np.int32),
        features={"age": np.array([float(user)])},
        excluded_indptr=np.array([0, len(excluded)]),
        excluded=np.array(sorted(excluded), np.int32),
    )


@pytest.fixture(scope="module")
def parts():
    """A world, its log, a source, and what is known of each user; the source's catalogue is in another order."""
    world = InstaTok(InstaTokConfig(n_users=20, n_videos=200, sessions_per_user=3, max_steps=10))
    log = log_sessions(world).interactions
    order = np.random.default_rng(0).permutation(world.n_items)  # catalogue position to world position
    item = order.argsort()[log.item].astype(np.int32)
    liked = np.isin(log.action, [0, 2])
    source = EASE.fit(replace(log.take(liked), item=item[liked]), regularization=10.0)
    history = [item[liked & (log.user == user)].tolist() for user in range(20)]
    seen = [set(item[log.user == user].tolist()) for user in range(20)]
    return world, order, source, history, seen


@pytest.fixture(scope="module")
def candidates(parts):
    world, order, source, history, seen = parts
    states = [state_of(user, history[user], seen[user]) for user in range(20)]
    counts = [len(state.excluded) for state in states]
    together = UserStates(
        user=np.concatenate([state.user for state in states]),
        at_ms=np.concatenate([state.at_ms for state in states]),
        history=np.concatenate([state.history for state in states]),
        features={"age": np.concatenate([state.features["age"] for state in states])},
        excluded_indptr=np.concatenate([[0], np.cumsum(counts)]),
        excluded=np.concatenate([state.excluded for state in states]),
    )
    return SourceCandidates.of(world, world.item_ids[order], together, source.candidates)


def test_the_source_is_asked_about_the_user_as_they_are_now(parts, candidates):
    _, order, source, history, seen = parts
    rng, position = np.random.default_rng(1), order.argsort()
    users = rng.integers(0, 20, 50)
    shown = np.full((50, 6), -1)
    rewards = np.zeros((50, 6))
    for row in range(50):
        n = rng.integers(0, 7)
        left = [video for video in range(200) if position[video] not in seen[users[row]]]
        shown[row, :n] = rng.choice(left, n, replace=False)
        rewards[row, :n] = rng.choice([1, -2, 2, -0.5], n)
    found = candidates.find(users, shown, rewards, 10)
    for row, user in enumerate(users):
        mine = [(int(position[v]), r) for v, r in zip(shown[row], rewards[row], strict=True) if v >= 0]
        now = state_of(user, history[user] + [i for i, r in mine if r > 0], seen[user] | {i for i, _ in mine})
        expected = source.candidates(now, 10)
        np.testing.assert_array_equal(found.ids[row], order[expected.items[0]])
        np.testing.assert_allclose(found.scores[row], expected.scores[0])
        assert not set(found.ids[row]) & set(shown[row].tolist())


@pytest.mark.filterwarnings("error")
def test_sessions_can_be_played_over_it(parts, candidates):
    world = parts[0]
    arena = Arena.with_source(world, candidates, 20, np.zeros(world.n_items, int))
    check_env(SessionEnv(VideoRound(arena, 1)), skip_render_check=True)


def test_what_is_not_of_the_world_is_refused(parts, candidates):
    world, order, *_ = parts
    ids = world.item_ids[order].copy()
    ids[3] = "film-3"
    with pytest.raises(ConfigError, match="'film-3' is not of this world"):
        SourceCandidates.of(world, ids, candidates.states, candidates.retrieve)
    with pytest.raises(ConfigError, match="finds fewer for session 0"):
        candidates.find(np.zeros(1, int), np.full((1, 1), -1), np.zeros((1, 1)), 199)


@pytest.mark.slow
def test_a_bundle_is_a_source_by_config(tmp_path):
    from rec.config import LambdaMARTConfig, QueriesConfig, RankerConfig, RetrieverConfig, TrainConfig, TrainingConfig
    from rec.pipeline import train
    from rl.config import InstaTokEnvConfig

    config = TrainConfig(
        retriever=RetrieverConfig(output_dim=16, queries=QueriesConfig(min_batches=5)),
        ranker=RankerConfig(n_candidates=60, lambdamart=LambdaMARTConfig(trees=20, min_data_in_leaf=5)),
        training=TrainingConfig(workers=0, epochs=2),
    )
    world = InstaTokConfig(n_users=60, n_videos=300, max_steps=10)
    train(log_sessions(InstaTok(world)), config, str(tmp_path))
    arena = Arena.of(InstaTokEnvConfig(world=world, home=str(tmp_path), bundle="CURRENT"))
    check_env(SessionEnv(VideoRound(arena, 1)), skip_render_check=True)
