"""What is measured, beside which baselines."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from rec.config.base import Config, Seed
from rec.errors import ConfigError

BaselineName = Literal["popularity", "recent_popularity", "item_knn", "ease", "ials"]


class BaselinesConfig(Config):
    """Which baselines are fitted, and the settings their validation period chooses from.

    `ials` needs the bench extra. `ease` takes up to 20,000 items.
    """

    names: tuple[BaselineName, ...] = ("popularity", "recent_popularity", "item_knn", "ease", "ials")
    recent_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 3, 7, 14, 30, 90)
    item_knn_neighbors: PositiveInt = 200
    ease_regularization: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (300.0, 1000.0, 3000.0, 10_000.0)
    ials_regularization: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (100.0, 300.0)
    ials_factors: PositiveInt = 64
    ials_alpha: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 4.0, 10.0)
    ials_iterations: PositiveInt = 15
    seed: Seed = 0


class EvaluationConfig(Config):
    """What is measured: metrics as in `ndcg@10`, and the baselines beside the bundle.

    `sources` adds what each source of candidates contributes, `exposure` what share of the lists is of each value of an
    item feature, such as the creator; of a bundle with a cap that of the cap's column unless another is given.
    """

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
    sources: bool = False
    exposure: str | None = None

    @field_validator("metrics")
    @classmethod
    def _are_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from rec.metrics import parse_metric  # it imports scipy, which other configs can do without

        try:
            for name in names:
                parse_metric(name)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return names
