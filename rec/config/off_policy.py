"""How a policy is learned from what another one showed."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config


class OffPolicyConfig(Config):
    """How the losses of `rec.losses` correct for what the logging policy chose to show.

    Importance weights are kept within `min_weight` and `max_weight` and, with `self_normalize`, divided by their mean:
    over the rows with a reward (`clicked`), or over all. A two-stage loss draws `n_slates` slates of `slate_size`
    items, the logged one included, at `slate_temperature`; `alpha` weighs what it says about the items beside the
    logged one. The ranker is taken to draw from a slate by the softmax of its scores over `ranker_temperature`: give
    the temperature at which the service draws. Negative rewards need min_weight 0.

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
    ranker_temperature: PositiveFloat = 0.1
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
