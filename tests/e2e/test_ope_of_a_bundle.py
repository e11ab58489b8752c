"""What is estimated of a bundle from the log of another policy is what it earns where it is played."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rec.bundle_policy import bundle_policy
from rec.config import load_config
from rec.data.rounds import join_rounds
from rec.eligibility import Eligible
from rec.ope import evaluate_slates
from rec.ope.slate_log import SlateLog, logged_slates, slate_log
from rec.policy import sample_slate
from rec.recommender import Recommender
from rec.state import Candidates, UserStates
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.sessions import Sessions
from rl.instatok.slate_log import REWARD_OF, log_slates
from rl.instatok.slate_log import Candidates as LoggedCandidates

K = 2
DRAWN_BY: Any = {"epsilon": 0.2, "temperature": 0.1}


@dataclass(frozen=True)
class Informed:
    """A ranker that knows the world, as a small one learns too little for its order to be worth anything.

    Attributes: world: where it ranks. users, items: of the bundle's rows and positions, in the world.
    """

    world: InstaTok
    users: np.ndarray
    items: np.ndarray

    def score_many(self, states: UserStates, candidates: Candidates) -> np.ndarray:
        categories = self.world.category[self.items[candidates.items]]
        scores = self.world.watch_p[self.users[states.user][:, None], categories]
        return np.where(candidates.items >= 0, scores, -np.inf)


@pytest.fixture(scope="module")
def world(trained: tuple[str, dict[str, Any]]) -> InstaTok:
    return InstaTok(load_config(InstaTokConfig, Path(trained[0]).parent / "world.yaml"))


@pytest.fixture(scope="module")
def recommender(trained: tuple[str, dict[str, Any]], world: InstaTok) -> Recommender:
    """The bundle, and in the place of its ranker one whose order matters."""
    bundle = Recommender.load(trained[0])
    users = pd.Index(world.user_ids).get_indexer(pd.Index(bundle.snapshot.user_ids))
    ranker: Any = Informed(world, users, places_of(bundle, world))
    return replace(bundle, ranker=ranker)


@pytest.fixture(scope="module")
def log(recommender: Recommender, world: InstaTok) -> SlateLog:
    """Slates drawn at random from what the bundle retrieves, and with little left out: answers ask for no history."""
    near = recommender.retrieve(recommender.hydrate([str(user_id) for user_id in world.user_ids]), 80).items
    ids = places_of(recommender, world)[near]

    def at_random(sessions: Sessions, rng: np.random.Generator) -> LoggedCandidates:
        return LoggedCandidates(ids[sessions.users], np.zeros((len(sessions), ids.shape[1])))

    drawn: Any = {"epsilon": 0.2, "temperature": 1.0, "rng": np.random.default_rng(0), "max_requests": 1}
    found = log_slates(world, at_random, n_sessions=8000, k=K, **drawn)
    rewards: Any = REWARD_OF
    rounds = join_rounds(found.requests, found.impressions, found.feedback, rewards=rewards, now_ms=2**50)
    log = slate_log(rounds)
    return replace(log, history=[items[-5:] for items in log.history])


def places_of(recommender: Recommender, world: InstaTok) -> np.ndarray:
    """Where each item of the bundle stands in the world's catalogue, (N,)."""
    return pd.Index(world.item_ids).get_indexer(pd.Index(recommender.item_ids))


def played(recommender: Recommender, world: InstaTok, log: SlateLog, n_times: int) -> float:
    """Mean reward of slates that the bundle draws for the users and histories of the log."""
    rng = np.random.default_rng(1)
    user_ids = [str(user_id) for user_id in log.user_id]
    users = pd.Index(world.user_ids).get_indexer(pd.Index(user_ids))
    states = recommender.hydrate(user_ids, exclude=[[str(item) for item in items] for items in log.history])
    candidates = recommender.retrieve(states)
    scores = recommender.rank(states, candidates)
    ids = np.where(candidates.items >= 0, places_of(recommender, world)[candidates.items], -1)
    eligible = Eligible.everything(len(log), world.n_items)
    earned = []
    for _ in range(n_times):
        slate = sample_slate(scores, ids, eligible, K, rng=rng, **DRAWN_BY)
        earned.append(Sessions(world, users).view_slates(slate.item_ids, rng).reward.sum(axis=1).mean())
    return float(np.mean(earned))


def test_the_estimate_is_what_the_bundle_earns(recommender: Recommender, world: InstaTok, log: SlateLog) -> None:
    target = bundle_policy(recommender, log, **{name: np.full(len(log), value) for name, value in DRAWN_BY.items()})
    rng = np.random.default_rng(0)
    found = evaluate_slates(logged_slates(log, target, rng=rng), ["cascade", "cascade_dr"], rng=rng)
    truth = played(recommender, world, log, 10)
    for name, estimate in found.items():
        assert estimate.std_error is not None
        assert abs(estimate.value - truth) < 3 * estimate.std_error, (name, estimate, truth)
