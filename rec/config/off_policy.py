"""How a policy is learned from what another one showed."""

import math
from typing import Annotated, Final, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config
from rec.config.objectives import SAMPLED_OBJECTIVES, LoggedObjective, Objective

# Which objectives read a setting. Those without an entry are of sampled items.
_CLIPPED: Final[tuple[LoggedObjective, ...]] = ("ips", "top_k_reinforce", "two_stage_ips")
_CAPPED: Final[tuple[LoggedObjective, ...]] = (*_CLIPPED, "dr", "weighted_log_likelihood")
OBJECTIVES_OF: Final[dict[str, tuple[LoggedObjective, ...]]] = {
    "sampled_items": SAMPLED_OBJECTIVES,
    "max_weight": _CAPPED,
    "self_normalize": _CAPPED,
    "normalize_over": (*_CLIPPED, "weighted_log_likelihood"),
    "min_weight": _CLIPPED,
    "slate_size": ("top_k_reinforce", "two_stage_ips"),
    "n_slates": ("two_stage_ips",),
    "alpha": ("two_stage_ips",),
    "slate_temperature": ("two_stage_ips",),
    "ranker_temperature": ("two_stage_ips",),
}


class OffPolicyConfig(Config):
    """How the losses of `rec.losses` correct for what the logging policy chose to show.

    Importance weights are kept within `min_weight` and `max_weight` and, with `self_normalize`, divided by their mean:
    over the rows with a reward that is not 0 (`clicked`), or over all. `dr` has no floor, and averages over all rows;
    `weighted_log_likelihood` has no floor. Cap, floor and mean make the gradient a biased one of the policy's value:
    without bias it is with a max_weight above all weights, min_weight 0 and without self_normalize.

    A two-stage loss draws `n_slates` slates of `slate_size` items, the logged one included, at `slate_temperature`;
    `alpha` weighs what it says about the items beside the logged one. The ranker is taken to draw from a slate by the
    softmax of its scores over `ranker_temperature`: give the temperature at which the service draws. Negative rewards
    need min_weight 0.

    With `sampled_items` above 0, `ips` and `two_stage_ips` score that many draws a round instead of the whole
    catalogue: a share `uniform_share` of them uniform, the others among the `neighbors` items that are nearest to the
    user by an index (`index`) which is built again every `rebuild_steps` steps of an epoch.

    What differs from its default where it has no effect is refused.
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
        sampled = "sampled items, of which there are none: set sampled_items"
        near = "items drawn near the user, of which there are none: set uniform_share below 1"
        for name, effective, required in (
            ("neighbors", self.sampled_items > 0, sampled),
            ("uniform_share", self.sampled_items > 0, sampled),
            ("rebuild_steps", self.sampled_items > 0, sampled),
            ("neighbors", self.uniform_share < 1, near),
            ("rebuild_steps", self.uniform_share < 1, near),
            ("normalize_over", self.self_normalize, "self-normalised weights: set self_normalize"),
        ):
            if not effective and name in self._changed():
                raise ValueError(f"{name} is of {required}, or leave it out; found {getattr(self, name)}")
        return self

    def agree_with(self, objective: Objective) -> None:
        """Refuses settings that the objective does not read, and a range of weights that is empty where it has one.

        Raises: ValueError: naming the first of them, and the objectives it is for.
        """
        if objective in _CLIPPED and self.min_weight > self.max_weight:
            raise ValueError(
                f"off_policy.min_weight must not exceed off_policy.max_weight; found {self.min_weight} > "
                f"{self.max_weight}: lower it"
            )
        for name, objectives in OBJECTIVES_OF.items():
            if name in self._changed() and objective not in objectives:
                raise ValueError(
                    f"off_policy.{name} is for {_listed(objectives)}; found {getattr(self, name)} with objective "
                    f"{objective}: set {type(self).model_fields[name].default}"
                )

    def _changed(self) -> set[str]:
        """Names of the settings that differ from their defaults."""
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}


def _listed(names: tuple[str, ...]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
