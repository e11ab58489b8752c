"""The configuration of everything in `rl`; it imports neither torch nor Ray."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from rec.config import Config, Seed


class InstaTokConfig(Config):
    """The world of short videos, and how long its log is.

    The defaults are those of the source notebook; `start_ms` and `days` say over which time sessions are spread. With
    the dynamics `fatigue` a category shown lately is watched less, so that what is shown now matters later.
    """

    dynamics: Literal["memoryless", "fatigue"] = "memoryless"
    n_users: PositiveInt = 200
    n_videos: PositiveInt = 3000
    n_creators: PositiveInt = 20
    max_steps: PositiveInt = 50
    sessions_per_user: PositiveFloat = 5.0
    start_ms: NonNegativeInt = 1_767_225_600_000
    days: PositiveFloat = 30.0
    seed: Seed = 0
