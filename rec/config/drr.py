"""The networks of DRR."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from rec.config.base import Config

StateKind = Literal["p", "u", "ave"]
ActionStart = Literal["random", "user"]
Correction = Literal["layers", "weights"]


class DRRNetworkConfig(Config):
    """Actor and critic of DRR; the defaults are the paper's.

    Attributes:
        state: how user and history become a state: products of items (`p`), of user and items as well (`u`), or user,
            average item and their product (`ave`).
        history_length: latest liked items that are read.
        hidden: size of the two ReLU layers of actor and critic each.
        start: what an untrained actor ranks by: `random` weights as in the paper, or the vector of the `user`, which is
            matrix factorisation's ranking.
        correction: what makes the state a ranking vector: two `layers` as in the paper, or three `weights`: of the
            user's factors, of the item's bias, and of the average liked item; these need state `ave` and start `user`.
    """

    state: StateKind = "ave"
    history_length: PositiveInt = 5
    hidden: PositiveInt = 128
    start: ActionStart = "random"
    correction: Correction = "layers"

    @model_validator(mode="after")
    def _weights_have_what_they_weigh(self) -> Self:
        if self.correction == "weights" and (self.state, self.start) != ("ave", "user"):
            raise ValueError(
                f"correction 'weights' needs state 'ave' and start 'user'; found {self.state!r} and {self.start!r}"
            )
        return self
