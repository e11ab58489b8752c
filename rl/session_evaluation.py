"""What policies earn in the same sessions: the same users, and the same luck at the same step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np
from numpy.typing import NDArray

from rec.metrics import MetricEstimate, mean_over_users, paired_difference
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.world import ENDS_SESSION
from rl.session_env import Observation
from rl.streams import uniforms

METRICS: Final = ("reward", "videos", "repeats", "quit")


class SlotPolicy(Protocol):
    """Chooses one of its candidates for each session."""

    def __call__(self, seen: Observation, videos: VideoRound) -> NDArray[np.integer[Any]]:
        """Columns of the candidates, (S,). An agent goes by what is seen; the round holds what is hidden, too."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Played:
    """Whole sessions, (S,) each.

    Attributes: reward: of all videos together. videos: shown. repeats: share of the videos whose category was among the
        five before. quit: 1 where the user left, 0 where the session came to its greatest length.
    """

    reward: NDArray[np.float64]
    videos: NDArray[np.float64]
    repeats: NDArray[np.float64]
    quit: NDArray[np.float64]

    def estimates(self) -> dict[str, MetricEstimate]:
        """Means over sessions by name, with intervals."""
        return {name: mean_over_users(getattr(self, name)) for name in METRICS}


def play_sessions(arena: Arena, policy: SlotPolicy, seeds: NDArray[np.uint64]) -> Played:
    """The first session of each stream, to its end, (S,)."""
    everything = np.arange(len(seeds))
    videos = VideoRound(arena, len(seeds))
    videos.seed(everything, seeds)
    videos.start(everything)
    repeated = np.zeros(len(seeds))
    while not videos.done.all():
        live = np.flatnonzero(~videos.done)
        columns = policy(videos.observe(), videos)
        categories = arena.world.category[videos.candidates.ids[everything, columns]]
        repeated[live] += videos.sessions.repeats(categories)[live] > 0
        videos.act(columns)
    sessions = videos.sessions
    n = sessions.n_steps.astype(np.float64)
    return Played(sessions.total_reward, n, repeated / n, (sessions.last_action == ENDS_SESSION).astype(np.float64))


def evaluation_seeds(seed: int, n_sessions: int) -> NDArray[np.uint64]:
    """Streams that no training has: those are drawn from 64 bits by other entropy, (n,)."""
    return np.random.SeedSequence((seed, 1_000_003)).generate_state(n_sessions, np.uint64).astype(np.uint64)


def compare(arena: Arena, policies: Mapping[str, SlotPolicy], seeds: NDArray[np.uint64]) -> dict[str, Played]:
    """Every policy in the same sessions."""
    return {name: play_sessions(arena, policy, seeds) for name, policy in policies.items()}


def to_json(played: Mapping[str, Played], *, against: str) -> dict[str, Any]:
    """`models` and `paired` as commands print them; `against` is compared with every other policy."""
    models = {name: {m: e.to_json() for m, e in each.estimates().items()} for name, each in played.items()}
    paired = [
        {
            "a": against,
            "b": name,
            "metric": "reward",
            **paired_difference(played[against].reward, each.reward).to_json(),
        }
        for name, each in played.items()
        if name != against
    ]
    return {"models": models, "paired": paired}


def drawn_at_random(seeds: NDArray[np.uint64]) -> SlotPolicy:
    """Any candidate, by a stream of its own for each session."""
    own = seeds ^ np.uint64(0x9E3779B97F4A7C15)

    def policy(seen: Observation, videos: VideoRound) -> NDArray[np.integer[Any]]:
        steps = videos.sessions.n_steps
        return (uniforms(own, np.zeros_like(steps), steps)[:, 0] * videos.arena.n_candidates).astype(np.int64)

    return policy


Score = Callable[[Observation, VideoRound], NDArray[np.floating[Any]]]


def best_by(score: Score) -> SlotPolicy:
    """The first candidate of the highest score, (S, M)."""
    return lambda seen, videos: score(seen, videos).argmax(axis=1)
