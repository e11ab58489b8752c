"""Sessions of ratings as RLlib takes them: a row of whole numbers to observe, ranking vectors with a switch to act."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import TransformObservation
from numpy.typing import NDArray

from rl.pmf_env import RatingRound
from rl.session_env import SessionVectorEnv


@final
class RankingEnv(TransformObservation):
    """Sessions side by side whose actions are ranking vectors and a switch, (S, k + 1); see RatingRound.

    Observed are the user, the history, and the item recommended last, or N at first: (S, 1 + n + 1). What was
    recommended is so part of the next observation, and of a replayed transition.

    Args: config: `world` (RatingWorld), `vectors` of the items, float32, (N, k), and `num_envs`, S.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        world, vectors, n_sessions = config["world"], config["vectors"], config["num_envs"]
        sessions = SessionVectorEnv(RatingRound(world, n_sessions, vectors))
        sessions.single_action_space = spaces.Box(-1, 1, (vectors.shape[1] + 1,), np.float32)
        sessions.action_space = batch_space(sessions.single_action_space, n_sessions)
        none = world.n_items
        observed = spaces.MultiDiscrete([len(world.histories), *[none + 1] * (world.histories.shape[1] + 1)])

        def row(observation: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
            shown = observation["shown"]
            n_shown = (shown < none).sum(axis=1)
            last = np.where(n_shown > 0, shown[np.arange(len(shown)), n_shown - 1], none)
            return np.column_stack([observation["user"], observation["history"], last])

        super().__init__(sessions, row, batch_space(observed, n_sessions), observed)
