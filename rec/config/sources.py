"""Which sources find candidates."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config
from rec.config.i2i import CosineConfig, SwingConfig, WeightedScoreConfig

FirstSource = Literal[
    "two_tower", "ease", "item_knn", "swing", "cosine", "weighted_score", "popularity", "recent_popularity"
]
OtherSource = Literal[
    "two_tower",
    "ease",
    "item_knn",
    "swing",
    "cosine",
    "weighted_score",
    "popularity",
    "recent_popularity",
    "fresh",
    "business",
    "batch",
]


class SourcesConfig(Config):
    """Which sources find candidates, and how many each.

    `quotas` maps a source to how many of its best are candidates; `first` finds the rest of `ranker.n_candidates`, and
    goes on down its list where several sources found the same. By default the two-tower model finds all.

    `fresh` are the latest items: by their first interaction, or by the numeric item feature `fresh_column` (times in
    UTC milliseconds or years, say; a time that is still to come is not known yet). `business` are item ids, best first.
    `batch` is a table that `tandem candidates` wrote: each user's list, or recent popularity where it has none.
    `weighted_score` adds up how near an item is to what the user likes by `cosine`, how often it was viewed, and
    whether it is of the user's interests: the `n_interests` values of the item feature `interest_column` that the user
    is predicted to like most, from ratings or from `cosine.scores` of actions.
    `tasks` is how many Ray tasks at a time count the pairs of users of `swing`; 1 counts them in the training process.
    """

    first: FirstSource = "two_tower"
    quotas: dict[OtherSource, PositiveInt] = Field(default_factory=dict)
    business: tuple[str, ...] = ()
    batch: str | None = None
    fresh_column: str | None = None
    ease_regularization: PositiveFloat = 1000.0
    item_knn_neighbors: PositiveInt = 200
    swing: SwingConfig = SwingConfig()
    cosine: CosineConfig = CosineConfig()
    weighted_score: WeightedScoreConfig = WeightedScoreConfig()
    interest_column: str | None = None
    n_interests: PositiveInt = 2
    tasks: PositiveInt = 1

    @property
    def names(self) -> tuple[str, ...]:
        """All sources, the first one first, the others by name."""
        return (self.first, *sorted(self.quotas))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.first in self.quotas:
            raise ValueError(f"quotas are of the other sources: {self.first} is first and finds the rest; leave it out")
        if ("business" in self.quotas) != bool(self.business):
            raise ValueError(
                "quotas.business and business, the list of item ids, need each other; found "
                f"{self.quotas.get('business')} and {list(self.business)}"
            )
        if ("batch" in self.quotas) != (self.batch is not None):
            raise ValueError(
                "quotas.batch and batch, the table of candidates, need each other; found "
                f"{self.quotas.get('batch')} and {self.batch!r}"
            )
        if ("weighted_score" in self.names) != (self.interest_column is not None):
            raise ValueError(
                "the source weighted_score and interest_column, the item feature whose values are interests, need each "
                f"other; found the sources {', '.join(self.names)} and {self.interest_column!r}"
            )
        repeated = sorted({item for item in self.business if self.business.count(item) > 1})
        if repeated:
            raise ValueError(f"business must name each item once; found {', '.join(repeated)} again")
        if self.fresh_column is not None and "fresh" not in self.quotas:
            raise ValueError(f"fresh_column has no effect without quotas.fresh; found {self.fresh_column!r}")
        return self
