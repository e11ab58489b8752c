"""One turn of the loop in which a service learns from its own log."""

from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from rec.config.base import Config, Seed
from rec.config.gate import GateConfig
from rec.config.incremental import IncrementalConfig


class CycleConfig(Config):
    """Which part of the log a challenger learns from, which part judges it, and what is asked of it.

    `rewards` says what each action is worth. A request counts once it is `attribution_s` old at `now_ms`, by default
    the time at which the cycle begins. The last `held_out_days` of those judge; the challenger learns, from CURRENT on
    as `incremental` says, or `anew`, and otherwise by the config of that model, from what was known before.
    `challenger` names a published version to be judged in its place; nothing is trained then. `workers` trains on other
    workers than CURRENT was. The lease that keeps other cycles out is `lease_s` long, and renewed until the cycle ends.
    """

    rewards: dict[str, float] = Field(default_factory=dict)
    attribution_s: PositiveInt = 86_400
    held_out_days: Annotated[float, Field(gt=0, le=36_500)] = 1.0
    now_ms: NonNegativeInt | None = None
    challenger: str | None = None
    anew: bool = False
    incremental: IncrementalConfig = IncrementalConfig()
    workers: NonNegativeInt | None = None
    gate: GateConfig = GateConfig()
    lease_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 600.0
    seed: Seed = 0

    def asked(self) -> dict[str, Any]:
        """What is asked for, whenever that is."""
        return self.model_dump(mode="json", exclude={"now_ms", "lease_s"})
