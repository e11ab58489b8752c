"""The configuration of everything in `rl`; it imports neither torch nor Ray."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rec.config import CandidateQConfig, Config, Seed, WeightedScoreConfig
from rec.config.drr import DRRNetworkConfig

SimulatorFamily = Literal["factorisation", "neighbors"]
Probability = Annotated[float, Field(ge=0, le=1)]


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


class InstaTokEnvConfig(Config):
    """Sessions in the world of short videos, as an environment.

    Candidates come from the weighted score over a log of random sessions, or from the bundle of this version in the
    registry at `home`, where one is named (`CURRENT` for the current one). The interests of the score are those that
    users state, or are predicted from the log. At most `per_category` candidates are of one category, where there are
    enough others: with the default of 4 every category is at hand.
    """

    world: InstaTokConfig = InstaTokConfig()
    n_candidates: PositiveInt = 30
    score: WeightedScoreConfig = WeightedScoreConfig()
    interests: Literal["stated", "predicted"] = "stated"
    per_category: PositiveInt | None = 4
    home: str | None = None
    bundle: str | None = None


class DQNTrainConfig(Config):
    """Deep Q-learning.

    Attributes:
        network: that values candidates.
        total_steps: of sessions, played in all.
        sessions: side by side in each runner.
        env_runners: processes that play; 0: the one that learns.
        steps_between_updates: of each session, before what was played is learnt from.
        training_intensity: steps drawn from the replay for each step played.
        batch_size: of an update.
        warmup_steps: played before the first update.
        learning_rate: of Adam at first; it falls evenly, as rewards are noisy.
        final_learning_rate: by the end, as a share of the first.
        discount: of what comes a step later. Sessions end, so 1 would make values what sessions earn; less is learnt
            from fewer steps, as what is far away is mostly luck.
        double: whether the network that learns chooses the next candidate which the target network values.
        loss: of TD errors.
        target_every: steps played between updates of the target network. tau: how far these go.
        exploration_steps: played until the share of random candidates has gone from 1 to `final_epsilon`.
        replay_capacity: transitions.
        priority_exponent: alpha of prioritised replay; 0 draws uniformly. Where rewards are luck, as in InstaTok,
            errors stay large where nothing is left to learn: ends of sessions are drawn too often, and values come
            out too low.
        weight_exponent: beta, which corrects for that in full at 1.
        steps_per_report: steps played for each row of the learning curve.
        seed: of everything.
    """

    network: CandidateQConfig = CandidateQConfig()
    total_steps: PositiveInt = 150_000
    sessions: PositiveInt = 128
    env_runners: NonNegativeInt = 0
    steps_between_updates: PositiveInt = 4
    training_intensity: PositiveFloat = 8.0
    batch_size: PositiveInt = 1024
    warmup_steps: NonNegativeInt = 1_000
    learning_rate: PositiveFloat = 2e-3
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    discount: Annotated[float, Field(ge=0, le=1)] = 0.9
    double: bool = True
    loss: Literal["huber", "mse"] = "mse"
    target_every: NonNegativeInt = 0
    tau: Annotated[float, Field(gt=0, le=1)] = 0.03
    exploration_steps: PositiveInt = 15_000
    final_epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1
    replay_capacity: PositiveInt = 150_000
    priority_exponent: Annotated[float, Field(ge=0, le=1)] = 0.0
    weight_exponent: Annotated[float, Field(ge=0, le=1)] = 1.0
    steps_per_report: PositiveInt = 5_000
    seed: Seed = 0


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


class DRRTrainConfig(Config):
    """How DRR is trained; the defaults are the paper's method with fewer updates, docs/agents.md lists what differs.

    Attributes:
        network: actor, critic and state.
        critic_reads: what an action is to the critic: the ranking `vector`, as in the paper, or that of the `item`
            recommended. The critic is then asked about ranking vectors of the root mean squared length of items'.
        exploration: a random available `item` with probability epsilon, or `gaussian` noise on the ranking vector.
        exploration_steps: played until the probability of a random item has gone from 1 to `final_epsilon`.
        noise: standard deviation of Gaussian noise.
        discount: gamma.
        actor_learning_rate, critic_learning_rate: of Adam.
        tau: share of the networks that goes into their targets with each update.
        batch_size: transitions of an update.
        replay_capacity: transitions.
        priority_exponent: of |TD error|, alpha; 0 draws uniformly. weight_exponent: beta, of the correction for it.
        warmup_steps: played before the first update.
        sessions: side by side.
        training_intensity: steps drawn from the replay for each step played; `batch_size` makes it the paper's update
            after every step.
        total_steps: of sessions, played in all.
        steps_per_report: steps played for each row of the learning curve.
        seed: of weights, sessions, exploration and replay.
    """

    network: DRRNetworkConfig = DRRNetworkConfig()
    critic_reads: Literal["vector", "item"] = "vector"
    exploration: Literal["item", "gaussian"] = "item"
    exploration_steps: PositiveInt = 20_000
    final_epsilon: Probability = 0.1
    noise: NonNegativeFloat = 0.1
    discount: Probability = 0.9
    actor_learning_rate: PositiveFloat = 1e-4
    critic_learning_rate: PositiveFloat = 1e-3
    tau: Annotated[float, Field(gt=0, le=1)] = 0.01
    batch_size: PositiveInt = 64
    replay_capacity: PositiveInt = 100_000
    priority_exponent: Probability = 0.6
    weight_exponent: Probability = 0.4
    warmup_steps: PositiveInt = 1000
    sessions: PositiveInt = 32
    training_intensity: PositiveFloat = 2.0
    total_steps: PositiveInt = 200_000
    steps_per_report: PositiveInt = 10_000
    seed: Seed = 0
