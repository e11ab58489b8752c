"""Policies in sessions of ratings: metrics worked by hand, the oracle above all, the same sessions for everybody."""

import numpy as np
import pytest
import torch

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.errors import DataError
from rec.models.drr import DRRActor
from rl.config import RatingEnvConfig
from rl.pmf import FitReport, MatrixFactorisation
from rl.pmf_env import RatingWorld
from rl.rating_evaluation import (
    at_random,
    by_actor,
    by_item,
    by_item_mean,
    by_model,
    by_popularity,
    by_world,
    play,
    rerank_metrics,
)

N_USERS, N_ITEMS, K = 12, 40, 3


def log_of(rows):
    user, item, rating = np.array(rows).T
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=np.arange(len(rows)),
        rating=rating.astype(np.float32),
    )


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return MatrixFactorisation(
        3.5,
        rng.normal(0, 0.2, N_USERS),
        rng.normal(0, 0.3, N_ITEMS),
        rng.normal(0, 0.7, (N_USERS, K)),
        rng.normal(0, 0.7, (N_ITEMS, K)),
        FitReport((), 0),
    )


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(1)
    pairs = rng.choice(N_USERS * N_ITEMS, 300, replace=False)
    return log_of(np.stack([pairs // N_ITEMS, pairs % N_ITEMS, rng.integers(1, 6, 300)], axis=1))


def test_metrics_worked_by_hand(model):
    """Items 5, 6, 7 of user 0 are rated 5, 2, 4 and shown in the order 6, 5, 7; user 1 has liked nothing.

    precision@2 = 1/2, @3 = 2/3; session of 3, so @5 divides by 3. DCG@2 = 1/log2(3), the ideal has two: 1 + 1/log2(3).
    """
    later = log_of([(0, 5, 5), (0, 6, 2), (0, 7, 4), (1, 3, 2)])
    world = RatingWorld.logged(log_of([(0, 1, 5), (1, 1, 5)]), later, model, RatingEnvConfig(session_length=5))
    scores = np.zeros(N_ITEMS)
    scores[[6, 5, 7]] = 3, 2, 1
    played = play(world, by_item(scores), world.users, seed=0)
    assert played.items[0].tolist() == [6, 5, 7, N_ITEMS, N_ITEMS] and played.lengths.tolist() == [3, 1]
    assert played.reward_per_step.tolist() == [(-0.5 + 1 + 0.5) / 3, -0.5]
    found = rerank_metrics(played, world, (2, 3, 5))
    assert found["precision@2"].tolist() == [1 / 2]
    assert found["precision@3"].tolist() == found["precision@5"].tolist() == [2 / 3]
    assert found["ndcg@2"] == pytest.approx([(1 / np.log2(3)) / (1 + 1 / np.log2(3))])


def test_other_users_and_longer_lists_than_were_played_are_refused(known, model):
    config = RatingEnvConfig(session_length=5)
    world = RatingWorld.logged(known.take(np.arange(150)), known.take(np.arange(150, 300)), model, config)
    played = play(world, by_model(model), world.users, seed=0)
    with pytest.raises(DataError, match="@10"):
        rerank_metrics(played, world, (10,))
    with pytest.raises(DataError, match="one session of each user"):
        rerank_metrics(play(world, by_model(model), world.users[:-1], seed=0), world, (5,))


def test_the_oracle_earns_most_and_knows_real_ratings(known, model):
    world = RatingWorld.of(known, model, RatingEnvConfig(session_length=10))
    users = np.repeat(world.users, 3)
    scorers = [at_random(np.random.default_rng(0)), by_popularity(known), by_item_mean(known), by_model(model)]
    best = play(world, by_world, users, seed=0).rewards.sum(axis=1)
    for scorer in scorers:
        assert (play(world, scorer, users, seed=0).rewards.sum(axis=1) <= best + 1e-9).all()


def test_offline_the_oracle_has_an_ndcg_of_one(known, model):
    config = RatingEnvConfig(session_length=10)
    world = RatingWorld.logged(known.take(np.arange(150)), known.take(np.arange(150, 300)), model, config)
    found = rerank_metrics(play(world, by_world, world.users, seed=0), world, (5, 10))
    assert found["ndcg@5"] == pytest.approx(1) and found["ndcg@10"] == pytest.approx(1)


def test_all_policies_meet_the_same_luck(known, model):
    """With noise the same item gets the same rating at the same step of the same session."""
    world = RatingWorld.of(known, model, RatingEnvConfig(noise=1.0))
    one, two = (play(world, by_popularity(known), np.repeat(world.users, 200), seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.rewards, two.rewards)
    assert (one.rewards != play(world, by_popularity(known), one.users, seed=4000).rewards).any()


def test_an_actor_that_starts_from_users_ranks_as_the_model(known, model):
    """Products are predictions up to a constant of the user, so before training both rerank alike."""
    from rl.drr import RatingVectors

    vectors = RatingVectors.of(model)
    actor = DRRActor(vectors.users, vectors.items, DRRNetworkConfig(start="user", hidden=8))
    torch.manual_seed(0)
    config = RatingEnvConfig(session_length=10)
    world = RatingWorld.logged(known.take(np.arange(150)), known.take(np.arange(150, 300)), model, config)
    unclipped = MatrixFactorisation(
        3.0, 0 * model.user_bias, 0.1 * model.item_bias, 0.1 * model.user_factors, model.item_factors, model.report
    )
    by_both = [play(world, scorer, world.users, seed=0).items for scorer in (by_actor(actor), by_model(unclipped))]
    np.testing.assert_array_equal(*by_both)
