"""The configuration of everything in `rec`: typed, frozen, and strict about names.

This module imports neither torch nor Ray, so that the command line starts fast.
"""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import tyro
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rec.errors import ConfigError

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
HOME_VARIABLE: Final = "TANDEM_HOME"
DEFAULT_HOME: Final = "./.tandem"


def default_home() -> str:
    """Where models, logs and runs are when nothing else is said: TANDEM_HOME, else ./.tandem."""
    return os.environ.get(HOME_VARIABLE) or DEFAULT_HOME


HomePath = Annotated[str, Field(default_factory=default_home)]
LikesObjective = Literal["logq", "mixed_negative", "cross_entropy"]
LoggedObjective = Literal["regression", "ips", "dr", "weighted_log_likelihood", "top_k_reinforce", "two_stage_ips"]
Objective = LikesObjective | LoggedObjective
SAMPLED_OBJECTIVES: Final[tuple[LoggedObjective, ...]] = ("ips", "two_stage_ips")
DataName = Literal["movielens-1m", "movielens-100k", "instatok", "recbole", "parquet", "csv", "events"]


class Config(BaseModel):
    """Base of all configs: unknown names are errors, values never change, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ColumnsConfig(Config):
    """What the columns of a table of your own are called."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    rating: str | None = None
    action: str | None = None


class DataConfig(Config):
    """Which data, and which of its rows count as liked.

    Of `events`, `rewards` says what each action is worth to off-policy learning (by default 1 for positive actions, 0
    for all others); an impression without feedback for `attribution_s` seconds is worth 0. What was logged after
    `now_ms` does not count: `tandem train` records the time at which it began, unless one is given, so that the data of
    a run stay the same as the log grows.
    """

    name: Annotated[DataName, tyro.conf.arg(name="data")] = "instatok"
    path: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    timestamp_unit: Literal["s", "ms"] = "s"
    min_rating: float = 3.0
    positive_actions: tuple[str, ...] = ("watched", "liked")
    rewards: dict[str, Annotated[float, Field(ge=-1e9, le=1e9)]] = {}
    attribution_s: PositiveInt = 86_400
    now_ms: NonNegativeInt | None = None


class SplitConfig(Config):
    """How interactions are divided into training and test."""

    kind: Literal["global_temporal", "per_user_temporal", "leave_last_out"] = "global_temporal"
    train_fraction: Fraction = 0.8


class EncodersConfig(Config):
    """How many slots values get that the training period does not hold, and how long lists and texts may be."""

    hash_slots: PositiveInt = 32
    text_buckets: PositiveInt = 2**14
    max_values: PositiveInt = 64


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], path: str | Path) -> ConfigT:
    """A config from a YAML file.

    Raises: ConfigError: naming the file and the field, for a file that is missing, no YAML, or has a wrong field.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no config can be read: {error.strerror}; check the path", file=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {error}", file=str(path)) from error
    return parse_config(kind, values or {}, file=str(path))


def parse_config(kind: type[ConfigT], values: Any, *, file: str | None = None) -> ConfigT:
    """A config from plain values, with errors that name the field."""
    if not isinstance(values, dict):
        raise ConfigError("a config is a mapping of names to values; is this the right file?", file=file)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise config_error(error, file=file) from error


def config_error(error: ValidationError, *, file: str | None = None) -> ConfigError:
    """The first complaint of pydantic, naming the field."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        # Raised by a config of ours, which says what it found; the input would be all of it.
        return ConfigError(first["msg"].removeprefix("Value error, "), file=file, field=field or None)
    return ConfigError(f"{first['msg']}; found {first.get('input')!r}", file=file, field=field or None)


class TaskConfig(Config):
    """One thing a ranker learns to predict of an interaction.

    `binary`: rating >= min_rating, or an action among `actions` where the log has no ratings; what is not given is as
    in the data config, so that the task is what counts as liked. `regression`: the rating itself.
    """

    name: str
    kind: Literal["binary", "regression"] = "binary"
    min_rating: float | None = None
    actions: tuple[str, ...] | None = None
    weight: PositiveFloat = 1.0

    def resolved(self, data: DataConfig) -> "TaskConfig":
        """The task with what it does not give taken from the data config."""
        return self.model_copy(
            update={
                "min_rating": data.min_rating if self.min_rating is None else self.min_rating,
                "actions": data.positive_actions if self.actions is None else self.actions,
            }
        )


class LambdaMARTConfig(Config):
    """Size and shape of the boosted trees; `patience` counts trees without a better validation NDCG@10.

    Validation periods are short and noisy, so at least `min_trees` are kept, whatever they say.
    """

    trees: PositiveInt = 150
    min_trees: PositiveInt = 60
    patience: PositiveInt = 30
    learning_rate: PositiveFloat = 0.1
    num_leaves: Annotated[int, Field(ge=2)] = 15
    min_data_in_leaf: PositiveInt = 100
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    bagging_fraction: Annotated[float, Field(gt=0, le=1)] = 0.7
    l2: NonNegativeFloat = 5.0
    truncation_level: PositiveInt = 20


class BranchConfig(Config):
    """A group of features with layers of its own; without any, the features go on as they are."""

    features: tuple[str, ...]
    hidden: tuple[PositiveInt, ...] = ()


class TowerConfig(Config):
    """What one side is embedded from, and how.

    Without `branches` there is one, of all the side's features. `without` names features of the side that are not
    read. Embeddings of ids have `embedding_dim` numbers, those of other features fewer.
    """

    embedding_dim: PositiveInt = 64
    branches: tuple[BranchConfig, ...] = ()
    without: tuple[str, ...] = ()
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class UserTowerConfig(TowerConfig):
    """A tower that may also read the history, as the mean embedding of the last n items for each n.

    A branch reads it under the name `history`. `history_dropout` is the share of history items left out at random in
    training.
    """

    without: tuple[str, ...] = ("user_id",)
    history_windows: tuple[PositiveInt, ...] = (50, 10)
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class QueriesConfig(Config):
    """The moments of the past that the retriever learns from: a user, a time, and what the user liked afterwards.

    A moment is either that of an interaction, or one of `snapshots` times at equal distances over the last
    `lookback_days` (or over all the time there is); `snapshot_share` of the moments are of the second kind. What the
    user liked within `horizon_days` is to be found; without a horizon it is the very interaction, and no moments are of
    the second kind. A moment `half_life_days` older than another counts half as often. Popularity and age of items are
    those of the latest snapshot, for interactions between snapshots too. An epoch draws `epoch_share` times as many
    positives as there are liked interactions, and at least `min_batches` batches, without which little data would be
    over before anything is learned.
    """

    snapshots: PositiveInt = 200
    snapshot_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    lookback_days: PositiveFloat | None = None
    horizon_days: PositiveFloat | None = 60.0
    half_life_days: PositiveFloat | None = 200.0
    epoch_share: PositiveFloat = 0.2
    min_batches: PositiveInt = 100


class RetrieverConfig(Config):
    """The two-tower retriever and its loss.

    The first three objectives learn from what was liked, the others from what was shown with which probability
    (`off_policy`).
    `positives_per_query` positives are drawn for each moment learned from; `mixed_negatives` items are drawn uniformly
    beside each batch, for objective `mixed_negative`. `mask_known` takes no training item of a user as a negative.
    """

    objective: Annotated[Objective, tyro.conf.arg(prefix_name=False)] = "mixed_negative"
    user_tower: UserTowerConfig = UserTowerConfig()
    item_tower: TowerConfig = TowerConfig()
    output_dim: PositiveInt = 64
    softmax_temperature: PositiveFloat = 0.07
    mixed_negatives: NonNegativeInt = 256
    positives_per_query: PositiveInt = 4
    mask_known: bool = True
    sparse_embeddings: bool = False
    queries: QueriesConfig = QueriesConfig()


class OffPolicyConfig(Config):
    """How the losses of `rec.losses` correct for what the logging policy chose to show.

    Importance weights are kept within `min_weight` and `max_weight` and, with `self_normalize`, divided by their mean:
    over the rows with a reward (`clicked`), or over all. A two-stage loss draws `n_slates` slates of `slate_size`
    items, the logged one included, at `slate_temperature`; `alpha` weighs what it says about the items beside the
    logged one. Negative rewards need min_weight 0.

    With `sampled_items` above 0, `ips` and `two_stage_ips` score that many draws a round instead of the whole
    catalogue: a share `uniform_share` of them uniform, the others among the `neighbors` items that are nearest to the
    user by an index (`index`) which is built again every `rebuild_steps` steps of an epoch.
    """

    max_weight: PositiveFloat = 10.0
    min_weight: NonNegativeFloat = 0.01
    alpha: NonNegativeFloat = 0.01
    n_slates: PositiveInt = 100
    slate_size: PositiveInt = 30
    slate_temperature: PositiveFloat = math.e
    self_normalize: bool = True
    normalize_over: Literal["clicked", "all"] = "clicked"
    sampled_items: NonNegativeInt = 0
    neighbors: PositiveInt = 256
    uniform_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    rebuild_steps: PositiveInt = 1000

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for name in ("neighbors", "uniform_share", "rebuild_steps"):
            value = getattr(self, name)
            if not self.sampled_items and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} is of sampled items, of which there are none: set sampled_items; found {value}"
                )
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight must not exceed max_weight; found {self.min_weight} > {self.max_weight}")
        return self


class TrainingConfig(Config):
    """How a model is fitted, on how many workers.

    `workers` 0 trains in this process, without Ray. `batch_size` counts positives over all workers. `patience` counts
    epochs without a better validation metric; `max_failures` how often lost workers are replaced. `precision` auto is
    bfloat16 autocast on devices that compute in it natively, float32 elsewhere. The learning rate rises over the first
    `warmup` of the steps, then stays or falls to zero along a cosine.
    """

    workers: NonNegativeInt = 2
    epochs: PositiveInt = 5
    batch_size: PositiveInt = 1024
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-5
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: PositiveInt = 3
    max_failures: NonNegativeInt = 2
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class MMoEConfig(Config):
    """The multi-gate mixture of experts: sizes, and how the tasks' predictions become one score.

    `formula` maps a task to its exponent: the score is the product of predictions to these powers, each taken at
    least 1e-6; probabilities for binary tasks, values for regression. Tasks not named count once.
    """

    experts: PositiveInt = 4
    expert_hidden: tuple[PositiveInt, ...] = (64,)
    expert_dim: PositiveInt = 32
    gate_hidden: tuple[PositiveInt, ...] = ()
    tower_hidden: tuple[PositiveInt, ...] = (32,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    formula: dict[str, float] = {}


class IndexConfig(Config):
    """How nearest items are found: `flat` compares all, `hnsw` walks a graph, `ivf` looks into the nearest lists."""

    kind: Literal["flat", "hnsw", "ivf"] = "flat"
    hnsw_neighbors: PositiveInt = 32
    hnsw_search: PositiveInt = 256
    ivf_lists: PositiveInt = 1024
    ivf_probes: PositiveInt = 32


class RankerConfig(Config):
    """The ranker: which model, what it reads, and the moments of earlier periods it learns from.

    `period_fractions`: where the periods begin, as fractions of the sorted training times; each lasts until the next
    begins, the last one until the test period. Candidates of a period come from a retriever that ends before it.
    `queries_per_period` moments are drawn in each, `session_share` of them in the middle of sessions and the others at
    the beginning.

    `learn_from` candidates: the retriever's `n_candidates` and `n_random_negatives` items of the catalogue, of which
    those liked later are positive and `negatives_per_query` of the others negative; for logs that only hold what people
    took. `learn_from` answers: up to `n_answered` items the user went on to answer, liked or not; for logs that hold
    what people refused, too. Queries with fewer than `min_positives` teach nothing.

    The retriever's score, as a logit, times `retrieval_weight` is added to the model's. `n_neighbors`: similar items
    kept for each item, for features of the history.
    """

    kind: Literal["lambdamart", "mmoe"] = "lambdamart"
    n_candidates: PositiveInt = 300
    learn_from: Literal["candidates", "answers"] = "candidates"
    n_random_negatives: NonNegativeInt = 10
    negatives_per_query: PositiveInt = 40
    n_answered: PositiveInt = 60
    min_positives: PositiveInt = 5
    queries_per_period: PositiveInt = 3000
    session_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    retrieval_weight: NonNegativeFloat = 0.5
    n_neighbors: PositiveInt = 100
    period_fractions: Annotated[tuple[Fraction, ...], Field(min_length=2)] = (0.6, 0.85)
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)] = (TaskConfig(name="positive"),)
    lambdamart: LambdaMARTConfig = LambdaMARTConfig()
    mmoe: MMoEConfig = MMoEConfig()
    mmoe_training: TrainingConfig = TrainingConfig(epochs=10, batch_size=4096, learning_rate=1e-3)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.tasks[0].kind != "binary":
            raise ValueError(f"the first task decides what a success is and must be binary; found {self.tasks[0]}")
        if list(self.period_fractions) != sorted(set(self.period_fractions)):
            raise ValueError(f"period_fractions must rise; found {self.period_fractions}")
        if self.kind == "lambdamart" and len(self.tasks) > 1:
            raise ValueError(f"lambdamart learns one task; found {len(self.tasks)}: take kind mmoe, or drop the others")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"task names must be unique; found {', '.join(names)}")
        return self


BaselineName = Literal["popularity", "recent_popularity", "item_knn", "ease", "ials"]


class BaselinesConfig(Config):
    """Which baselines are fitted, and the settings their validation period chooses from.

    `ials` needs the bench extra. `ease` takes up to 20,000 items.
    """

    names: tuple[BaselineName, ...] = ("popularity", "recent_popularity", "item_knn", "ease", "ials")
    recent_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 3, 7, 14, 30, 90)
    item_knn_neighbors: PositiveInt = 200
    ease_regularization: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (300.0, 1000.0, 3000.0, 10_000.0)
    ials_regularization: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (30.0, 100.0, 300.0)
    ials_factors: PositiveInt = 64
    ials_alpha: PositiveFloat = 1.0
    ials_iterations: PositiveInt = 15
    seed: Seed = 0


class EvaluationConfig(Config):
    """What is measured: metrics as in `ndcg@10`, and the baselines beside the bundle."""

    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "ndcg@10",
        "recall@10",
        "hit_rate@10",
        "precision@10",
        "mrr@10",
        "recall@100",
        "coverage@10",
        "novelty@10",
    )
    baselines: BaselinesConfig = BaselinesConfig()


class TrainConfig(Config):
    """One training run, from data to bundle.

    Users of whom nothing is known are answered by what was popular over the last `popularity_days`.
    """

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig()
    split: SplitConfig = SplitConfig()
    encoders: EncodersConfig = EncodersConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    index: IndexConfig = IndexConfig()
    ranker: RankerConfig = RankerConfig()
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()
    popularity_days: PositiveInt = 30
    seed: Seed = 0

    @model_validator(mode="after")
    def _items_can_be_sampled(self) -> Self:
        objective, settings = self.retriever.objective, self.off_policy
        if not settings.sampled_items:
            return self
        if objective not in SAMPLED_OBJECTIVES:
            raise ValueError(
                f"off_policy.sampled_items is for {' and '.join(SAMPLED_OBJECTIVES)}; found {settings.sampled_items} "
                f"with objective {objective}: set 0"
            )
        if objective == "two_stage_ips" and settings.sampled_items < settings.slate_size:
            raise ValueError(
                "off_policy.sampled_items must be at least off_policy.slate_size, for slates are drawn from them; "
                f"found {settings.sampled_items} and {settings.slate_size}"
            )
        return self


LOGGED_POLICY: Final = "logged"


class OpeColumns(Config):
    """What the columns of a table of rounds are called; None for what it does not have.

    `q_logged` is the predicted reward of what was shown, `q_target` its mean under the policy under evaluation.
    """

    reward: str = "reward"
    propensity: str = "propensity"
    target_p: str = "target_p"
    user_id: str | None = "user_id"
    q_logged: str | None = None
    q_target: str | None = None


class OpeConfig(Config):
    """Which log, which policy, and which estimators.

    Without `table` the log is the events of the home, and the policy under evaluation is `target`: `logged` reranks
    nothing and draws from the logged candidates; a bundle's version, or `current`, ranks anew. Both draw with `epsilon`
    and `temperature`, the logged ones unless given. `rewards` says what each action is worth, `position_weights` what a
    reward counts at each position, from the top (1 unless given). Impressions count that are `attribution_s` old at
    `now_ms`, by default now. A log without any feedback is refused, but with `allow_no_feedback`, where silence is the
    answer. A `table` is a Parquet or CSV file of one round a row, with the target's probability in it.

    The empirical Bernstein interval needs `reward_range` and `weight_bound`. `plot` is where the HTML goes.
    """

    table: str | None = None
    columns: OpeColumns = OpeColumns()
    target: str = LOGGED_POLICY
    epsilon: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: NonNegativeFloat | None = None
    rewards: dict[str, float] = {}
    attribution_s: PositiveInt = 86_400
    since_ms: NonNegativeInt | None = None
    until_ms: NonNegativeInt | None = None
    now_ms: NonNegativeInt | None = None
    position_weights: tuple[float, ...] = ()
    allow_no_feedback: bool = False
    estimators: tuple[str, ...] = ()
    interval: Literal["normal", "bootstrap", "empirical_bernstein"] = "normal"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    reward_range: tuple[float, float] | None = None
    weight_bound: PositiveFloat | None = None
    plot: str | None = "ope.html"
    seed: Seed = 0
