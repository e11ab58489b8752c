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

    Validation periods are short and noisy, so at least `min_trees` are grown and kept, whatever they say.
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
    formula: dict[str, float] = Field(default_factory=dict)


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
