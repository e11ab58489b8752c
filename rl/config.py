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


class BusinessScoreConfig(Config):
    """Weights of what a candidate's score is made of; the defaults are those of the source notebook.

    `log_views` puts the logarithm of the views, log(1 + views), in their place.
    """

    similarity_weight: float = 0.5
    views_weight: float = 0.1
    interest_weight: float = 0.3
    log_views: bool = False


class InstaTokEnvConfig(Config):
    """Sessions in the world of short videos, as an environment.

    Candidates come from the business score over a log of random sessions, or from the bundle of this version in the
    registry at `home`, where one is named (`CURRENT` for the current one).
    """

    world: InstaTokConfig = InstaTokConfig()
    n_candidates: PositiveInt = 30
    score: BusinessScoreConfig = BusinessScoreConfig()
    home: str | None = None
    bundle: str | None = None
