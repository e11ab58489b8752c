"""The configuration of everything in `rl`; it imports neither torch nor Ray."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

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
    """Weights of what a candidate's score is made of.

    The defaults are those of the source notebook, where views are counted in tens. `log_views` puts log(1 + views) in
    the place of the views.
    """

    similarity_weight: float = 0.5
    views_weight: float = 0.01
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


class PMFConfig(Config):
    """Matrix factorisation of ratings by stochastic gradient descent.

    Attributes:
        dim: number of factors.
        learning_rate: of the first epoch; each further one has `decay` times that of the one before.
        regularization: of biases and factors, for each rating.
        init_std: standard deviation of the first factors.
        max_epochs: at most.
        patience: epochs without a better validation error before the descent ends.
        validation_fraction: of each user's ratings, the latest, held out to choose the number of epochs.
        seed: of the first factors and of the order of ratings.
    """

    dim: PositiveInt = 32
    learning_rate: PositiveFloat = 0.01
    decay: Annotated[float, Field(gt=0, le=1)] = 0.97
    regularization: NonNegativeFloat = 0.05
    init_std: PositiveFloat = 0.05
    max_epochs: PositiveInt = 60
    patience: NonNegativeInt = 2
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: Seed = 0


class RatingNeighborsConfig(Config):
    """Ratings from neighbours.

    Attributes: n_neighbors: of each item. shrinkage: towards the biases. bias_shrinkage: of these towards the mean.
    """

    n_neighbors: PositiveInt = 60
    shrinkage: PositiveFloat = 0.3
    bias_shrinkage: NonNegativeFloat = 5.0


class RatingEnvConfig(Config):
    """Sessions with users whose ratings are known or predicted.

    Attributes:
        history_length: latest liked items that are observed.
        session_length: items recommended in a session.
        noise: standard deviation, in stars, of what predicted ratings are off; drawn anew for each.
    """

    history_length: PositiveInt = 5
    session_length: PositiveInt = 10
    noise: NonNegativeFloat = 0.0
