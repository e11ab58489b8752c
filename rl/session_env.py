"""Sessions as Gymnasium environments, one at a time or thousands side by side.

Whatever the sessions are of, both environments are the same `SessionRound` behind Gymnasium's two interfaces. A session
is an episode; its greatest length belongs to the world and is observed, so a session terminates there, too, and nothing
is ever truncated.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl.seeds import seeds_of

Observation = dict[str, NDArray[Any]]


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step brought to S sessions.

    Attributes: reward: 0 for sessions that were over before, (S,). done: whether a session is over, (S,). info: more to
        tell of those that were not over before, by name, (S,) each.
    """

    reward: NDArray[np.float64]
    done: NDArray[np.bool_]
    info: dict[str, NDArray[np.int64]]


class SessionRound(Protocol):
    """S sessions under way, each with a stream of random numbers of its own."""

    @property
    def observation_space(self) -> spaces.Dict:
        """Of one session."""
        ...

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Of one session."""
        ...

    @property
    def users(self) -> NDArray[np.int64]:
        """Whose sessions they are, (S,)."""
        ...

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which sessions are over, (S,)."""
        ...

    @property
    def seeded(self) -> bool:
        """Whether every session has been started."""
        ...

    def seed(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """New streams for some rows, (n,) both; they have to be started."""
        ...

    def start(self, rows: NDArray[np.int64]) -> None:
        """The next session of each of these streams, (n,)."""
        ...

    def act(self, actions: NDArray[Any]) -> Outcome:
        """One step of each session that is not over, (S, ...)."""
        ...

    def observe(self) -> Observation:
        """Observations of all sessions as they are now, each (S, ...) and new."""
        ...


@final
class SessionEnv(gymnasium.Env[Observation, Any]):
    """One session after the other; `reset(seed=s)` starts the stream of s anew, `reset()` is its next session.

    `info` holds the user and, after a step, what the round tells of it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, round_of_one: SessionRound) -> None:
        self.round = round_of_one
        self.observation_space = round_of_one.observation_space
        self.action_space = round_of_one.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new session."""
        super().reset(seed=seed)
        row = np.zeros(1, np.int64)
        if seed is not None or not self.round.seeded:
            chosen = int(self.np_random.integers(2**63)) if seed is None else seed
            self.round.seed(row, np.array([chosen], np.uint64))
        self.round.start(row)
        return self._observe(), {"user": int(self.round.users[0])}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step.

        Raises: ValueError: for an action that is none. gymnasium.error.ResetNeeded: when the session is over.
        """
        if not self.round.seeded or self.round.done[0]:
            raise gymnasium.error.ResetNeeded("there is no session under way; call reset first")
        outcome = self.round.act(np.asarray(action)[None])
        info = {"user": int(self.round.users[0])} | {name: int(values[0]) for name, values in outcome.info.items()}
        return self._observe(), float(outcome.reward[0]), bool(outcome.done[0]), False, info

    def _observe(self) -> Observation:
        return {name: values[0] for name, values in self.round.observe().items()}


@final
class SessionVectorEnv(gymnasium.vector.VectorEnv[Observation, Any, NDArray[Any]]):
    """Sessions side by side in NumPy: the same as single environments in a SyncVectorEnv, seeds included.

    Autoreset mode is NEXT_STEP: the step after the last of a session ignores its action, has reward 0, and observes the
    start of the stream's next session.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, round_of_all: SessionRound) -> None:
        self.round = round_of_all
        self.num_envs = len(round_of_all.users)
        self.single_observation_space = round_of_all.observation_space
        self.single_action_space = round_of_all.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """New sessions everywhere; of a seed s environment i takes s + i."""
        self.round.seed(*seeds_of(seed, self.num_envs, fresh=not self.round.seeded))
        self.round.start(np.arange(self.num_envs))
        return self.round.observe(), self._users()

    def step(
        self, actions: Any
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of each session; those that were over start anew.

        Raises: ValueError: for an action that is none. gymnasium.error.ResetNeeded: before the first reset.
        """
        if not self.round.seeded:
            raise gymnasium.error.ResetNeeded("there are no sessions under way; call reset first")
        over = self.round.done.copy()
        outcome = self.round.act(np.asarray(actions))
        self.round.start(np.flatnonzero(over))
        info = self._users()
        for name, values in outcome.info.items() if not over.all() else ():
            info |= {name: np.where(over, 0, values), f"_{name}": ~over}
        return self.round.observe(), outcome.reward, outcome.done & ~over, np.zeros(self.num_envs, bool), info

    def _users(self) -> dict[str, Any]:
        return {"user": self.round.users.copy(), "_user": np.ones(self.num_envs, bool)}
