"""How items become neighbours of items."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from rec.config.base import Config


class SwingConfig(Config):
    """Swing: a pair of users adds w_u w_v / (alpha + items both have) to every pair of the items both have.

    The weight of a user is w_u = (items of the user + `user_offset`) ^ -`user_power`. Only the most recent
    `max_items_per_user` items of a user count, then the most recent `max_users_per_item` users of an item; `top_k`
    neighbours are kept of each item.
    """

    alpha: NonNegativeFloat = 1.0
    user_offset: NonNegativeFloat = 5.0
    user_power: NonNegativeFloat = 0.35
    top_k: PositiveInt = 100
    max_items_per_user: Annotated[int, Field(ge=2)] = 200
    max_users_per_item: Annotated[int, Field(ge=2, le=100_000)] = 1000


class CosineConfig(Config):
    """The cosine of what users think of two items; `top_k` neighbours are kept of each item.

    An interaction counts as much as its action is worth in `scores`, and those of one user with one item add up.
    Without `scores` an item that a user has interacted with counts 1, however often that was.
    """

    top_k: PositiveInt = 100
    scores: dict[str, float] | None = None


class WeightedScoreConfig(Config):
    """What makes up the weighted score: similarity, views (their logarithm with `log_views`), being of an interest."""

    similarity_weight: float = 1.0
    views_weight: float = 0.1
    interest_weight: float = 1.0
    log_views: bool = True
