"""InstaTok's sessions with candidates to choose from: what its environments are made of.

arena = Arena.of(InstaTokEnvConfig())
one, many = SessionEnv(VideoRound(arena, 1)), SessionVectorEnv(VideoRound(arena, 4096))
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.i2i import INSTATOK_SCORES
from rec.i2i.cosine import action_scores
from rec.i2i.interests import interest_scores, predicted_interests
from rl.config import InstaTokEnvConfig
from rl.instatok.candidates import ScoredCosine, SessionCandidates
from rl.instatok.log import log_sessions
from rl.instatok.observation import observation_space
from rl.instatok.sessions import Sessions, viewing_seconds
from rl.instatok.slate_log import Candidates
from rl.instatok.world import ACTIONS, CATEGORIES, FATIGUE_WINDOW, N_INTERESTS, VIDEO_SECONDS, InstaTok
from rl.session_env import Outcome
from rl.streams import SessionStreams


@final
@dataclass(frozen=True)
class Arena:
    """Where sessions take place, and where their candidates come from; shared by any number of environments.

    Attributes:
        world: of the users and videos.
        source: finds candidates.
        n_candidates: of each step.
        views: what environments tell of a video's views: their logarithm, scaled to [0, 1], (N,).
    """

    world: InstaTok
    source: SessionCandidates
    n_candidates: int
    views: NDArray[np.float64]

    @classmethod
    def of(cls, config: InstaTokEnvConfig) -> Self:
        """The world of a config, with a log of random sessions behind its candidates.

        Raises: ConfigError: where a session can come to the end of the catalogue.
        """
        world = InstaTok(config.world)
        log = log_sessions(world).interactions
        if config.bundle is None:
            source: SessionCandidates = ScoredCosine.fit(
                log,
                category=world.category,
                initial_views=world.initial_views,
                is_interest=_interests(world, log, config.interests),
                weights=config.score,
                per_category=config.per_category,
            )
        else:
            from rl.instatok.source_candidates import SourceCandidates

            source = SourceCandidates.load(world, config.home, None if config.bundle == "CURRENT" else config.bundle)
        return cls.with_source(world, source, config.n_candidates, np.bincount(log.item, minlength=world.n_items))

    @classmethod
    def with_source(
        cls, world: InstaTok, source: SessionCandidates, n_candidates: int, logged_views: NDArray[np.integer]
    ) -> Self:
        """A world with candidates from anywhere.

        Args: world: of the users and videos. source: finds candidates. n_candidates: of each step. logged_views: of
            the videos, besides their initial ones, (N,).
        Raises: ConfigError: where a session can come to the end of the catalogue.
        """
        left = world.n_items - source.most_seen - world.config.max_steps
        if left < n_candidates:
            raise ConfigError(
                f"some session would run out of candidates: of {world.n_items} videos one user has seen "
                f"{source.most_seen}, and a session shows up to {world.config.max_steps}; ask for at most "
                f"{max(left, 0)}, or make n_videos larger",
                field="n_candidates",
            )
        views = np.log1p(world.initial_views + logged_views)
        return cls(world, source, n_candidates, views / max(views.max(), 1.0))


def _interests(world: InstaTok, log: Interactions, how: Literal["stated", "predicted"]) -> NDArray[np.bool_]:
    """Whether each category interests each user, as they say or as the log of what they did predicts, (U, C)."""
    if how == "stated":
        return (world.interests[:, :, None] == np.arange(len(CATEGORIES))).any(axis=1)
    values = action_scores(log, INSTATOK_SCORES)
    return predicted_interests(interest_scores(log, values, world.category, n_categories=len(CATEGORIES)), N_INTERESTS)


@final
class VideoRound:
    """S sessions under way, each with random numbers of its own: session and seed decide, not who else plays.

    The user of a session is drawn by step 0 of its stream, what they do with the n-th video by step n.

    Attributes:
        arena: where they take place.
        sessions: how far they are.
        shown: positions of the videos shown in order, then -1, (S, T).
        rewards: of these, (S, T).
        seconds: looked at videos so far, (S,).
        candidates: to choose from now, as last observed, (S, M).
    """

    def __init__(self, arena: Arena, n_sessions: int) -> None:
        max_steps = arena.world.config.max_steps
        self.arena = arena
        self.sessions = Sessions(arena.world, np.zeros(n_sessions, np.int64))
        self.observation_space = observation_space(arena.n_candidates)
        self.action_space = spaces.Discrete(arena.n_candidates)
        self.shown = np.full((n_sessions, max_steps), -1, np.int64)
        self.rewards = np.zeros((n_sessions, max_steps))
        self.seconds = np.zeros(n_sessions)
        nothing = np.zeros((n_sessions, arena.n_candidates))
        self.candidates = Candidates(nothing.astype(np.int64), nothing)
        self._changed = np.ones(n_sessions, np.bool_)
        self._streams = SessionStreams(n_sessions)
        age = arena.world.age
        self._age = (age - age.min()) / max(age.max() - age.min(), 1)

    def seed(self, rows: NDArray[np.integer], seeds: NDArray[np.uint64]) -> None:
        """New streams for some rows, (n,) both; start them before they go on."""
        self._streams.seed(rows, seeds)

    @property
    def users(self) -> NDArray[np.int64]:
        """Whose sessions they are, (S,)."""
        return self.sessions.users

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which sessions are over, (S,)."""
        return self.sessions.done

    @property
    def seeded(self) -> bool:
        """Whether every row has been started."""
        return self._streams.started

    def start(self, rows: NDArray[np.integer]) -> None:
        """The next session of each of these streams, (n,)."""
        self.sessions.restart(rows, self._streams.start(rows, self.arena.world.n_users))
        self.shown[rows], self.rewards[rows], self.seconds[rows] = -1, 0.0, 0.0
        self._changed[rows] = True

    def act(self, actions: NDArray[np.integer]) -> Outcome:
        """Shows one of its candidates to each session that is not over.

        Args: actions: columns of `candidates`, (S,).
        Returns: with the videos shown (`item`, a position) and what users did (`action`, a position in ACTIONS).
        Raises: ValueError: for an action that is no candidate.
        """
        wrong = np.flatnonzero((actions < 0) | (actions >= self.arena.n_candidates))
        if len(wrong):
            raise ValueError(
                f"an action is a candidate from 0 to {self.arena.n_candidates - 1}; session {wrong[0]} was given "
                f"{actions[wrong[0]]}"
            )
        items = np.where(self.done, -1, self.candidates.ids[np.arange(len(actions)), actions])
        steps = self.sessions.n_steps.copy()
        points = self._streams.at(steps + 1)
        answers = self.sessions.view_at(items, points[:, 0])
        live = np.flatnonzero(items >= 0)
        self.shown[live, steps[live]] = items[live]
        self.rewards[live, steps[live]] = answers.reward[live]
        self.seconds += viewing_seconds(answers.action, points[:, 1])
        self._changed[live] = True
        return Outcome(answers.reward, answers.done, {"item": items, "action": answers.action.astype(np.int64)})

    def _find_candidates(self) -> Candidates:
        """Those of before where nothing has happened since, as in sessions that are over."""
        rows = np.flatnonzero(self._changed)
        if not len(rows):
            return self.candidates
        # No session is longer than the longest: what lies beyond holds no videos.
        longest = max(int(self.sessions.n_steps[rows].max()), 1)
        shown, rewards = self.shown[rows, :longest], self.rewards[rows, :longest]
        found = self.arena.source.find(self.users[rows], shown, rewards, self.arena.n_candidates)
        ids, scores = self.candidates.ids.copy(), self.candidates.scores.copy()
        ids[rows], scores[rows] = found.ids, found.scores
        self._changed[:] = False
        return Candidates(ids, scores)

    def observe(self) -> dict[str, NDArray[Any]]:
        """Finds the candidates, and tells what an agent sees; see `rl.instatok.observation`."""
        self.candidates = self._find_candidates()
        world, sessions, ids = self.arena.world, self.sessions, self.candidates.ids
        users, categories = sessions.users, world.category[ids]
        interests = world.interests[users]
        numbers = np.empty((len(users), 6), np.float32)
        numbers[:, 0] = sessions.n_steps / world.config.max_steps
        numbers[:, 1:4] = sessions.action_counts[:, :3] / world.config.max_steps
        numbers[:, 4] = self.seconds / (world.config.max_steps * VIDEO_SECONDS)
        numbers[:, 5] = self._age[users]
        of_candidates = np.empty((*ids.shape, 4), np.float32)
        of_candidates[:, :, 0] = self.candidates.scores / (1 + np.abs(self.candidates.scores))
        of_candidates[:, :, 1] = (categories[:, :, None] == interests[:, None]).any(axis=2)
        of_candidates[:, :, 2] = self.arena.views[ids]
        of_candidates[:, :, 3] = sessions.repeats(categories) / FATIGUE_WINDOW
        profile = np.stack([world.gender[users], world.region[users], interests[:, 0], interests[:, 1]], axis=1)
        return {
            "numbers": numbers,
            "profile": profile.astype(np.int64),
            "last_action": np.where(sessions.last_action >= 0, sessions.last_action, len(ACTIONS)).astype(np.int64),
            "recent_categories": np.where(sessions.recent >= 0, sessions.recent, len(CATEGORIES)).astype(np.int64),
            "candidates": of_candidates,
            "candidate_categories": categories.astype(np.int64),
        }
