"""What is shown beside what: caps and boosts by a group of items."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from rec.config.base import Config

Boost = Annotated[float, Field(ge=-1e6, le=1e6)]


class RulesConfig(Config):
    """Caps and boosts by an item feature of one value an item, such as the creator.

    A slate holds at most `cap_limit` items of one value of `cap_column`; items without a value are not limited.
    `boosts` maps values of `boost_column` to what is added to the ranker's score, in its units: at temperature T a
    boost b multiplies an item's odds by exp(b / T). `fresh_boost` is added to an item that was just liked first, or has
    just come into the catalogue and not been liked, and half as much with every `fresh_half_life_days` since. All are
    part of the bundle, so that its version says under which rules its propensities came about.

    A boost is at most a million either way: beside more, the digits of the scores that it is added to are lost. A
    half-life is a minute or more: nobody means less, and by much less an age can no longer be divided.
    """

    cap_column: str | None = None
    cap_limit: PositiveInt = 2
    boost_column: str | None = None
    boosts: dict[str, Boost] = Field(default_factory=dict)
    fresh_boost: Boost = 0.0
    fresh_half_life_days: Annotated[float, Field(ge=1 / 1440)] = 7.0

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.boost_column is None) != (not self.boosts):
            raise ValueError(
                f"boost_column and boosts need each other; found {self.boost_column!r} and {self.boosts}: give both"
            )
        if (
            not self.fresh_boost
            and self.fresh_half_life_days != type(self).model_fields["fresh_half_life_days"].default
        ):
            raise ValueError("fresh_half_life_days has no effect without fresh_boost: set it, or leave both out")
        return self
