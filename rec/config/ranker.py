"""The ranker, its models, and what it learns to predict."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config, Fraction
from rec.config.data import DataConfig
from rec.config.training import TrainingConfig


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

    Validation periods are short and noisy, so at least `min_trees` are grown and kept, whatever they say. A worker of
    Ray Train gets at least `rows_per_worker`, and what is less than that is learned without one: growing trees on so
    few takes no longer than starting a process.
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
    rows_per_worker: PositiveInt = 500_000


class PointwiseConfig(Config):
    """A model that predicts every task of single rows, and how its predictions become one score.

    `formula` maps a task to its exponent: the score is the product of predictions to these powers, each taken at
    least 1e-6; probabilities for binary tasks, values for regression. Tasks not named count once.

    `judged_by` decides which epoch is best on the validation queries: the order by `ndcg@10`, or, where probabilities
    are to be read as such, the first task's `log_likelihood`; orders are often right before probabilities are.
    """

    formula: dict[str, float] = Field(default_factory=dict)
    judged_by: Literal["ndcg@10", "log_likelihood"] = "ndcg@10"


class ExpertsConfig(PointwiseConfig):
    """Sizes of the networks that experts, gates and the tasks' towers are."""

    expert_hidden: tuple[PositiveInt, ...] = (64,)
    expert_dim: PositiveInt = 32
    gate_hidden: tuple[PositiveInt, ...] = ()
    tower_hidden: tuple[PositiveInt, ...] = (32,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MMoEConfig(ExpertsConfig):
    """The multi-gate mixture of experts: `experts` are shared by all tasks."""

    experts: PositiveInt = 4


class PLEConfig(ExpertsConfig):
    """Progressive layered extraction: on each of `levels`, experts of all tasks and experts of each task's own."""

    levels: PositiveInt = 2
    shared_experts: PositiveInt = 2
    task_experts: PositiveInt = 2


class LogisticConfig(PointwiseConfig):
    """Logistic regression of hashed features: 2 ** `bits` weights a task.

    A number is read as one of up to `bins` quantiles of the training rows. `crosses` names pairs of features whose
    combinations have weights, too; a name may be a pattern such as `affinity_*`, which stands for all it matches.
    `cross_categorical` crosses every two categorical features. `l2` is the penalty of sklearn's 1 / C: of each task the
    sum of the rows' losses plus l2 / 2 times the sum of squared weights is what is minimised, whatever the task weighs.
    """

    bits: Annotated[int, Field(ge=4, le=26)] = 18
    bins: Annotated[int, Field(ge=2, le=1024)] = 16
    crosses: tuple[tuple[str, str], ...] = (
        ("retrieval_rank", "item_percentile_7d"),
        ("retrieval_score", "history_size"),
        ("retrieval_score", "i2i_sum*"),
        ("i2i_sum", "item_percentile_90d"),
        ("affinity_*", "history_size"),
    )
    cross_categorical: bool = True
    l2: NonNegativeFloat = 10.0


RankerKind = Literal["lambdamart", "logistic", "mmoe", "ple"]


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

    `position_bias`: pointwise models learn, beside what rows say, what the position adds at which an item was shown,
    and predict for the top of the list; for answers of a log that has positions.

    The retriever's score, as a logit, times `retrieval_weight` is added to the model's. `n_neighbors`: similar items
    kept for each item, for features of the history.
    """

    kind: RankerKind = "lambdamart"
    n_candidates: PositiveInt = 300
    learn_from: Literal["candidates", "answers"] = "candidates"
    n_random_negatives: NonNegativeInt = 10
    negatives_per_query: PositiveInt = 40
    n_answered: PositiveInt = 60
    min_positives: PositiveInt = 5
    position_bias: bool = False
    queries_per_period: PositiveInt = 3000
    session_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    retrieval_weight: NonNegativeFloat = 0.5
    n_neighbors: PositiveInt = 100
    period_fractions: Annotated[tuple[Fraction, ...], Field(min_length=2)] = (0.6, 0.85)
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)] = (TaskConfig(name="positive"),)
    lambdamart: LambdaMARTConfig = LambdaMARTConfig()
    logistic: LogisticConfig = LogisticConfig()
    logistic_training: TrainingConfig = TrainingConfig(epochs=10, batch_size=4096, learning_rate=1e-2, weight_decay=0.0)
    mmoe: MMoEConfig = MMoEConfig()
    mmoe_training: TrainingConfig = TrainingConfig(epochs=10, batch_size=4096, learning_rate=1e-3)
    ple: PLEConfig = PLEConfig()
    ple_training: TrainingConfig = TrainingConfig(epochs=10, batch_size=4096, learning_rate=1e-3)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.tasks[0].kind != "binary":
            raise ValueError(f"the first task decides what a success is and must be binary; found {self.tasks[0]}")
        if list(self.period_fractions) != sorted(set(self.period_fractions)):
            raise ValueError(f"period_fractions must rise; found {self.period_fractions}")
        if self.kind == "lambdamart" and len(self.tasks) > 1:
            raise ValueError(
                f"lambdamart learns one task; found {len(self.tasks)}: take mmoe or ple, or drop the others"
            )
        if self.position_bias and self.kind == "lambdamart":
            raise ValueError("position_bias is for pointwise models, which lambdamart is none of: take another kind")
        if self.position_bias and self.learn_from != "answers":
            raise ValueError(
                f"position_bias needs rows that were all shown: set learn_from answers; found {self.learn_from}"
            )
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"task names must be unique; found {', '.join(names)}")
        return self
