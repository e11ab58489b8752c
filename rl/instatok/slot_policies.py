"""What an agent is compared with: policies that choose one of the candidates InstaTok's sessions have."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rec.models.session_agent import SessionAgent
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.log import log_sessions
from rl.instatok.observation import CANDIDATE_FEATURES
from rl.instatok.planning import Plan
from rl.instatok.world import REWARDS
from rl.session_env import Observation
from rl.session_evaluation import SlotPolicy, best_by, drawn_at_random

# Interactions of an average video, before anything was seen of one.
_SHRINKAGE: Final = 10.0
_FAR_BELOW: Final = 1e6


def baselines(arena: Arena, seeds: NDArray[np.uint64]) -> dict[str, SlotPolicy]:
    """By name. The last two know the hidden watch probabilities; what follows they only know of all categories at hand.

    random; popularity: by views; greedy: by the score of the candidates; item_mean: by the mean reward of a video in
    the log, shrunk; myopic: the best next reward, of equals the one with the better continuation; oracle: the optimum.

    Args: arena: where. seeds: of the sessions that are played, for `random`.
    """
    views = CANDIDATE_FEATURES.index("views")
    mean = item_means(arena)
    return {
        "random": drawn_at_random(seeds),
        "popularity": best_by(lambda seen, videos: seen["candidates"][:, :, views]),
        "greedy": best_by(lambda seen, videos: videos.candidates.scores),
        "item_mean": best_by(lambda seen, videos: mean[videos.candidates.ids]),
        "myopic": _knowing(arena, myopic=True),
        "oracle": _knowing(arena, myopic=False),
    }


def by_agent(agent: SessionAgent) -> SlotPolicy:
    """The candidate an agent values most."""

    def score(seen: Observation, videos: VideoRound) -> NDArray[np.floating[Any]]:
        return agent.score(*split(seen))

    return best_by(score)


def split(seen: Observation) -> tuple[Observation, Observation]:
    """An observation as what agents take: of the session, and of the candidates."""
    session, candidate = ([field.name for field in fields] for fields in (INPUTS.session, INPUTS.candidate))
    return {name: seen[name] for name in session}, {name: seen[name] for name in candidate}


def item_means(arena: Arena) -> NDArray[np.float64]:
    """The mean reward of each video in the log of random sessions, shrunk to the mean of all, (N,)."""
    log = log_sessions(arena.world).interactions
    assert log.action is not None
    rewards = REWARDS[log.action]
    counts = np.bincount(log.item, minlength=arena.world.n_items)
    sums = np.bincount(log.item, rewards, minlength=arena.world.n_items)
    return (sums + _SHRINKAGE * rewards.mean()) / (counts + _SHRINKAGE)


def _knowing(arena: Arena, *, myopic: bool) -> SlotPolicy:
    """By the hidden watch probabilities; without fatigue the best next reward is the best for ever."""
    plan = None if arena.world.fatigued_p is None else Plan.of(arena.world, myopic=myopic)

    def score(seen: Observation, videos: VideoRound) -> NDArray[np.floating[Any]]:
        categories = seen["candidate_categories"]
        repeats = videos.sessions.repeats(categories)
        p = arena.world.watch_p_of(videos.users[:, None], categories, repeats)
        if plan is None:
            return p
        values = np.take_along_axis(plan.category_values(videos.sessions), categories, axis=1)
        # Categories that the plan would not look at go last, the likeliest to be watched first.
        return np.where(np.isneginf(values), p - _FAR_BELOW, values)

    return best_by(score)
