"""The networks of DRR."""

from typing import Literal

from pydantic import PositiveInt

from rec.config.base import Config

StateKind = Literal["p", "u", "ave"]
ActionStart = Literal["random", "user"]


class DRRNetworkConfig(Config):
    """Actor and critic of DRR; the defaults are the paper's.

    Attributes:
        state: how user and history become a state: products of items (`p`), of user and items as well (`u`), or user,
            average item and their product (`ave`).
        history_length: latest liked items that are read.
        hidden: size of the two ReLU layers of actor and critic each.
        start: what an untrained actor ranks by: `random` weights as in the paper, or the vector of the `user`, which is
            matrix factorisation's ranking.
    """

    state: StateKind = "ave"
    history_length: PositiveInt = 5
    hidden: PositiveInt = 128
    start: ActionStart = "random"
