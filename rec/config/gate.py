"""When a challenger may take the champion's place."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rec.config.base import Config


class GateConfig(Config):
    """When a challenger may take the champion's place; everything here has to hold.

    The one-sided 97.5% lower bound of what it earns more, a request, must exceed `margin`. The log must be worth
    `min_ess` requests under either policy, could have shown a share `min_support` of what each would show, and hold
    `min_impressions`. The slates of the challenger must hold `min_coverage_ratio` times the share of the catalogue that
    the champion's do, it must not take more than `max_latency_ratio` times as long to rank, and the calibration error
    of its probabilities must not be more than `max_calibration_rise` above the champion's.
    """

    margin: float = 0.0
    min_ess: PositiveFloat = 1000.0
    # No estimate is made below .95, so that less cannot be asked for.
    min_support: Annotated[float, Field(ge=0.95, le=1)] = 0.95
    min_impressions: PositiveInt = 1000
    min_coverage_ratio: NonNegativeFloat = 0.5
    max_latency_ratio: PositiveFloat = 2.0
    max_calibration_rise: NonNegativeFloat = 0.02
