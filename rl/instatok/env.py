"""InstaTok as a Gymnasium environment, one session at a time or thousands side by side.

Choose the next video out of the candidates, until the user has had enough. Rewards are InstaTok's, and a session is an
episode; the cap on its videos belongs to the world, and how many were seen is observed, so it terminates there too.
"""

from typing import Any, ClassVar, Final, final

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl.instatok.arena import Arena, Round
from rl.instatok.world import ACTIONS, CATEGORIES, FATIGUE_WINDOW, GENDERS, REGIONS
from rl.seeds import seeds_of

Observation = dict[str, NDArray[Any]]

NUMBERS: Final = ("videos", "watched", "skipped", "liked", "seconds", "age")
PROFILE: Final = ("gender", "region", "first interest", "second interest")
CANDIDATE_FEATURES: Final = ("score", "is interest", "views", "repeats")


def observation_space(n_candidates: int) -> spaces.Dict:
    """What an agent sees; everything is a category or scaled.

    numbers: see NUMBERS; counts are shares of the longest session, age of the range of ages, in [0, 1].
    profile: see PROFILE. last_action: position in ACTIONS, or their number before the first.
    recent_categories: of the last videos, the latest last; the number of categories stands for none.
    candidates: see CANDIDATE_FEATURES; the score as s / (1 + |s|), the logarithm of the views as a share of the
        largest, how many of the recent categories are the candidate's as a share of all. candidate_categories: of each.
    """
    n_categories = len(CATEGORIES)
    return spaces.Dict(
        {
            "numbers": spaces.Box(0, 1, (len(NUMBERS),), np.float32),
            "profile": spaces.MultiDiscrete([len(GENDERS), len(REGIONS), n_categories, n_categories]),
            "last_action": spaces.Discrete(len(ACTIONS) + 1),
            "recent_categories": spaces.MultiDiscrete([n_categories + 1] * FATIGUE_WINDOW),
            "candidates": spaces.Box(-1, 1, (n_candidates, len(CANDIDATE_FEATURES)), np.float32),
            "candidate_categories": spaces.MultiDiscrete([n_categories] * n_candidates),
        }
    )


@final
class InstaTokEnv(gymnasium.Env[Observation, np.int64]):
    """One session after the other; `reset(seed=s)` starts the stream of s anew, `reset()` its next session.

    `info` holds the user, and after a step the item shown (catalogue position) and the action (position in ACTIONS).
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, arena: Arena) -> None:
        self.round = Round(arena, 1)
        self.observation_space = observation_space(arena.n_candidates)
        self.action_space = spaces.Discrete(arena.n_candidates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new session."""
        super().reset(seed=seed)
        if seed is not None or not self.round.seeded:
            chosen = int(self.np_random.integers(2**63)) if seed is None else seed
            self.round.seed(np.zeros(1, np.int64), np.array([chosen], np.uint64))
        self.round.start(np.zeros(1, np.int64))
        self.round.refresh()
        return self._observe(), {"user": int(self.round.sessions.users[0])}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Shows one of the candidates.

        Raises: ValueError: for an action that is no candidate. gymnasium.error.ResetNeeded: when the session is over.
        """
        if not self.round.seeded or self.round.sessions.done[0]:
            raise gymnasium.error.ResetNeeded("there is no session under way; call reset first")
        items, answers = self.round.show(_checked(np.array([action]), self.round.arena.n_candidates))
        self.round.refresh()
        info = {
            "user": int(self.round.sessions.users[0]),
            "item": int(items[0]),
            "action": int(answers.action[0]),
        }
        return self._observe(), float(answers.reward[0]), bool(answers.done[0]), False, info

    def _observe(self) -> Observation:
        return {name: values[0] for name, values in self.round.observe().items()}


@final
class InstaTokVectorEnv(gymnasium.vector.VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Sessions side by side, in NumPy: the same as `num_envs` single environments in a SyncVectorEnv, seeds included.

    Autoreset mode is NEXT_STEP: the step after the last of a session ignores its action, has reward 0, and observes the
    start of the stream's next session.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, arena: Arena, num_envs: int) -> None:
        self.num_envs = num_envs
        self.round = Round(arena, num_envs)
        self.single_observation_space = observation_space(arena.n_candidates)
        self.single_action_space = spaces.Discrete(arena.n_candidates)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """New sessions everywhere; of a seed s environment i takes s + i."""
        rows, seeds = seeds_of(seed, self.num_envs, fresh=not self.round.seeded)
        self.round.seed(rows, seeds)
        self.round.start(np.arange(self.num_envs))
        self.round.refresh()
        return self.round.observe(), self._info_of_users()

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Shows one of its candidates to each session; those that were over start anew.

        Raises: ValueError: for an action that is no candidate. gymnasium.error.ResetNeeded: before the first reset.
        """
        if not self.round.seeded:
            raise gymnasium.error.ResetNeeded("there are no sessions under way; call reset first")
        over = self.round.sessions.done.copy()
        items, answers = self.round.show(_checked(np.asarray(actions), self.round.arena.n_candidates))
        self.round.start(np.flatnonzero(over))
        self.round.refresh()
        info = self._info_of_users()
        if not over.all():
            info |= {"item": np.where(over, 0, items), "_item": ~over}
            info |= {"action": np.where(over, 0, answers.action).astype(np.int64), "_action": ~over}
        return self.round.observe(), answers.reward, answers.done & ~over, np.zeros(self.num_envs, bool), info

    def _info_of_users(self) -> dict[str, Any]:
        return {"user": self.round.sessions.users.copy(), "_user": np.ones(self.num_envs, bool)}


def _checked(actions: NDArray[np.integer], n_candidates: int) -> NDArray[np.integer]:
    wrong = np.flatnonzero((actions < 0) | (actions >= n_candidates))
    if len(wrong):
        raise ValueError(
            f"an action is a candidate from 0 to {n_candidates - 1}; session {wrong[0]} was given {actions[wrong[0]]}"
        )
    return actions
