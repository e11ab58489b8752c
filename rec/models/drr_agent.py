"""A trained DRR actor as a session agent, without RLlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from rec.config import parse_config
from rec.config.drr import DRRNetworkConfig
from rec.errors import BundleError, ScoreError
from rec.models.drr import DRRActor
from rec.models.weights import put_weights, read_weights, save_described

USERS: Final = "user_vectors"
ITEMS: Final = "item_vectors"


@final
class DRRAgent:
    """Values candidates by their product with the actor's ranking vector.

    The state is `user`, a position, and `history`, positions of the latest n liked items, oldest first, with the number
    of items for none; a candidate is `item`, a position. Attributes: actor: with its vectors. config: its sizes.
    """

    kind: ClassVar[str] = "drr"

    def __init__(self, actor: DRRActor, config: DRRNetworkConfig) -> None:
        self.actor, self.config = actor.eval(), config

    @torch.no_grad()
    def score(self, state: Mapping[str, Any], candidates: Mapping[str, Any]) -> NDArray[np.float64]:
        """See SessionAgent.

        Raises: ScoreError: for a field that is missing.
        """
        given = dict(state) | dict(candidates)
        missing = [name for name in ("user", "history", "item") if name not in given]
        if missing:
            raise ScoreError(f"the agent was trained on user, history and item; {', '.join(missing)} is missing")
        user, history, item = (torch.as_tensor(given[name]).long() for name in ("user", "history", "item"))
        alone = user.ndim == 0
        if alone:
            user, history, item = user[None], history[None], item[None]
        products = torch.einsum("sk,smk->sm", self.actor(user, history), self.actor.state.items[item])
        scores = products.double().numpy()
        return scores[0] if alone else scores

    def save(self, file: Path) -> None:
        """See SessionAgent; the vectors are in the file, too."""
        vectors = {USERS: self.actor.state.users, ITEMS: self.actor.state.items[:-1]}
        described = {"kind": self.kind, "config": self.config.model_dump(mode="json")}
        save_described(self.actor.state_dict() | vectors, described, file)

    @classmethod
    def load(cls, file: Path, description: Mapping[str, Any]) -> Self:
        """See SessionAgent."""
        config = parse_config(DRRNetworkConfig, description.get("config"), file=str(file))
        weights = read_weights(file)
        for name in (USERS, ITEMS):
            if name not in weights:
                raise BundleError(f"holds no {name}; export the agent again", file=str(file))
        actor = DRRActor(weights.pop(USERS), weights.pop(ITEMS), config)
        put_weights(actor, weights, file=str(file))
        return cls(actor, config)
