"""What policies earn in sessions of ratings, offline by reranking logged sessions and online in the simulator.

    offline = RatingWorld.logged(split.train, split.test, model, config)
    played = play(offline, by_popularity(split.train), offline.users, seed=0)
    rerank_metrics(played, offline, (5, 10))["ndcg@10"]  # of each user; rec.metrics.paired_difference compares two

The same users and seeds give every policy the same sessions and the same luck, so differences are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.errors import DataError
from rec.metrics import ndcg
from rec.models.drr import DRRActor
from rl.pmf import RatingModel
from rl.pmf_env import RatingRound, RatingWorld, reward_of

Integers = NDArray[np.integer[Any]]
Scorer = Callable[[RatingRound], NDArray[np.floating[Any]]]

RELEVANT: Final = float(reward_of(np.array(4.0)))
_AT_ONCE: Final = 1024


@final
@dataclass(frozen=True, slots=True)
class Played:
    """Sessions that a policy has played, T steps at most.

    Attributes: users: whose they are, (S,). items: recommended, N after the end of a session, (S, T). rewards: of
        these, 0 after the end, (S, T). lengths: steps of each session, (S,).
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def reward_per_step(self) -> NDArray[np.float64]:
        """Mean reward of each session, (S,)."""
        return self.rewards.sum(axis=1) / self.lengths


def play(world: RatingWorld, scorer: Scorer, users: Integers, seed: int) -> Played:
    """One session of each of these users, each step recommending the available item of the highest score.

    Args: world: where. scorer: scores of all items in each session under way, (S, N). users: a user may occur more than
        once, (S,). seed: session i has the stream seed + i.
    """
    shown, rewards = [], []
    for start in range(0, len(users), _AT_ONCE):
        some = np.asarray(users[start : start + _AT_ONCE], np.int64)
        rows = np.arange(len(some))
        sessions = RatingRound(world, len(some))
        sessions.seed(rows, (seed + start + rows).astype(np.uint64))
        sessions.start(rows)
        sessions.begin(rows, some)
        earned = np.zeros(sessions.shown.shape)
        for step in range(earned.shape[1]):
            earned[:, step] = sessions.act(sessions.best(scorer(sessions))).reward
        shown.append(sessions.shown)
        rewards.append(earned)
    return Played(
        np.asarray(users, np.int64), np.concatenate(shown), np.concatenate(rewards), world.lengths[np.asarray(users)]
    )


def rerank_metrics(played: Played, world: RatingWorld, ks: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Precision and NDCG at each k of logged sessions by user, (V,); relevant are ratings of 4 and more.

    Precision divides by min(k, items of the session), NDCG's ideal has min(k, relevant items of the session). Users
    without a relevant item are left out. The other items of the session count as well as those recommended.

    Args: played: each user of the world once, in its order. world: of logged sessions.
    Raises: DataError: when others were played, or sessions are too short for a k.
    """
    if not np.array_equal(played.users, world.users):
        raise DataError("one session of each user of the world, in the world's order, is required")
    if max(ks) > played.items.shape[1]:
        raise DataError(f"sessions of {played.items.shape[1]} items were played; there is no @{max(ks)}")
    owner = world.rated // world.n_items
    n_items = np.bincount(owner, minlength=len(world.lengths))[world.users]
    relevant = np.bincount(owner, reward_of(world.ratings) >= RELEVANT, len(world.lengths))[world.users].astype(int)
    judged = relevant > 0
    hit = (played.rewards >= RELEVANT) & (played.items < world.n_items)
    metrics = {}
    for k in ks:
        metrics[f"precision@{k}"] = (hit[:, :k].sum(axis=1) / np.minimum(k, n_items))[judged]
        metrics[f"ndcg@{k}"] = ndcg(hit[judged], relevant[judged], k)
    return metrics


def judge(
    scorer: Scorer, offline: RatingWorld, online: RatingWorld, users: Integers, seed: int, ks: Sequence[int] = (5, 10)
) -> dict[str, NDArray[np.float64]]:
    """Both evaluations: metrics of the reranked sessions by user, and `online_reward`, per step, by session.

    Args: scorer: what is judged. offline: logged sessions. online: the simulator. users: of its sessions, (S,). seed:
        of their streams. ks: lengths of lists.
    """
    found = rerank_metrics(play(offline, scorer, offline.users, seed), offline, ks)
    return found | {"online_reward": play(online, scorer, users, seed).reward_per_step}


def scorers(known: Interactions, model: RatingModel, seed: int) -> dict[str, Scorer]:
    """What an agent stands beside, by name."""
    return {
        "random": at_random(np.random.default_rng(seed)),
        "popularity": by_popularity(known),
        "item mean": by_item_mean(known),
        "matrix factorisation": by_model(model),
        "oracle": by_world,
    }


def at_random(rng: np.random.Generator) -> Scorer:
    """Any available item."""
    return lambda sessions: rng.random((len(sessions.users), sessions.world.n_items))


def by_popularity(known: Interactions) -> Scorer:
    """The item that most users rated."""
    return by_item(np.bincount(known.item, minlength=known.n_items).astype(np.float64))


def by_item_mean(known: Interactions, shrinkage: float = 5.0) -> Scorer:
    """The item of the highest mean rating, shrunk towards the mean of all by so many ratings."""
    if known.rating is None:
        raise DataError("ratings are required; this log has actions", field="rating")
    above = known.rating.astype(np.float64) - known.rating.mean(dtype=np.float64)
    counts = np.bincount(known.item, minlength=known.n_items)
    return by_item(np.bincount(known.item, above, known.n_items) / (counts + shrinkage))


def by_item(scores: NDArray[np.float64]) -> Scorer:
    """The same scores in every session, (N,)."""
    return lambda sessions: np.broadcast_to(scores, (len(sessions.users), len(scores)))


def by_model(model: RatingModel) -> Scorer:
    """The item of the highest predicted rating: greedy in the model's own simulator, MF-rerank on logged sessions."""
    return lambda sessions: model.predict_all(sessions.users)


def by_world(sessions: RatingRound) -> NDArray[np.float64]:
    """The item of the highest expected rating: the oracle, as no rating depends on those before.

    With noise it is the oracle up to what clipping to the scale does to the mean.
    """
    world = sessions.world
    scores = world.model.predict_all(sessions.users)
    first = np.searchsorted(world.rated, sessions.users * world.n_items)
    last = np.searchsorted(world.rated, (sessions.users + 1) * world.n_items)
    for row, (start, end) in enumerate(zip(first, last, strict=True)):
        scores[row, world.rated[start:end] % world.n_items] = world.ratings[start:end]
    return scores


def by_actor(actor: DRRActor) -> Scorer:
    """The item of the highest product with the actor's ranking vector."""
    vectors = actor.state.items[:-1].numpy(force=True)

    def scores(sessions: RatingRound) -> NDArray[np.floating[Any]]:
        with torch.no_grad():
            action = actor(torch.from_numpy(sessions.users), torch.from_numpy(sessions.history))
        return action.numpy(force=True) @ vectors.T

    return scores
