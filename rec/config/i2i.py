"""How items become neighbours of items."""

import math
from typing import Annotated, Final, Self

from pydantic import Field, PositiveInt, model_validator

from rec.config.base import Config

# Of the 61 bits of a sum that are surely used, 7 are left for the lightest weight: it is rounded by less than 1%.
_MOST_BITS: Final = 54


class SwingConfig(Config):
    """Swing: a pair of users adds w_u w_v / (alpha + items both have) to every pair of the items both have.

    The weight of a user is w_u = (items of the user + `user_offset`) ^ -`user_power`. Only the most recent
    `max_items_per_user` items of a user count, then the most recent `max_users_per_item` users of an item; `top_k`
    neighbours are kept of each item.

    Weights are added up as 63-bit integers. So those that the caps allow must not be spread too wide, as they are by a
    high `user_power` with a low `user_offset`: the lightest would be lost to rounding.
    """

    alpha: Annotated[float, Field(ge=0, le=1e9)] = 1.0
    user_offset: Annotated[float, Field(ge=0, le=1e9)] = 5.0
    user_power: Annotated[float, Field(ge=0, le=10)] = 0.35
    top_k: PositiveInt = 100
    max_items_per_user: Annotated[int, Field(ge=2)] = 200
    max_users_per_item: Annotated[int, Field(ge=2, le=100_000)] = 1000

    @model_validator(mode="after")
    def _lightest_weight_is_not_lost(self) -> Self:
        spread_bits = 2 * self.user_power * math.log2(
            (self.max_items_per_user + self.user_offset) / (2 + self.user_offset)
        ) + math.log2((self.max_items_per_user + self.alpha) / (2 + self.alpha))
        pair_bits = math.log2(self.max_users_per_item * (self.max_users_per_item - 1) / 2)
        if spread_bits + pair_bits > _MOST_BITS:
            raise ValueError(
                f"the heaviest weight of two users is 2^{spread_bits:.1f} times the lightest, and a sum has up to "
                f"2^{pair_bits:.1f} of them: beyond 2^{_MOST_BITS} in all the lightest are lost to rounding; lower "
                "user_power, max_items_per_user or max_users_per_item, or raise user_offset"
            )
        return self


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
