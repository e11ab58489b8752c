"""A trained DRR actor as a session agent, without RLlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import parse_config
from rec.config.drr import DRRNetworkConfig
from rec.errors import BundleError, ScoreError
from rec.models.drr import DRRActor
from rec.models.weights import put_weights, read_weights, require_finite, save_described

USERS: Final = "user_vectors"
ITEMS: Final = "item_vectors"


@final
class DRRAgent:
    """Values candidates by their product with the actor's ranking vector.

    The state is `user`, a position, and `history`, positions of the latest n liked items, oldest first, with the number
    of items for none; a candidate is `item`, a position.

    Attributes: actor: with its vectors. config: its sizes. ratings: digest of those it was trained on, None where it is
        not known.
    """

    kind: ClassVar[str] = "drr"

    def __init__(self, actor: DRRActor, config: DRRNetworkConfig, ratings: str | None = None) -> None:
        self.actor, self.config, self.ratings = actor.eval(), config, ratings

    @torch.no_grad()
    def score(self, state: Mapping[str, Any], candidates: Mapping[str, Any]) -> NDArray[np.float64]:
        """See SessionAgent.

        Raises: ScoreError: for a field that is missing, of another shape, or out of range, or a value that is not
            finite.
        """
        given = dict(state) | dict(candidates)
        missing = [name for name in ("user", "history", "item") if name not in given]
        if missing:
            raise ScoreError(f"the agent was trained on user, history and item; {', '.join(missing)} is missing")
        n_users, n_items = len(self.actor.state.users), len(self.actor.state.items) - 1
        user = _positions(given["user"], "user", n_users)
        history = _positions(given["history"], "history", n_items + 1)
        item = _positions(given["item"], "item", n_items)
        n = self.config.history_length
        if (*user.shape, n) != tuple(history.shape) or item.shape[:-1] != user.shape:
            raise ScoreError(
                f"history must hold {n} items for each user and item those to value; found user, history and item of "
                f"shapes {tuple(user.shape)}, {tuple(history.shape)} and {tuple(item.shape)}"
            )
        alone = user.ndim == 0
        if alone:
            user, history, item = user[None], history[None], item[None]
        products = torch.einsum("sk,smk->sm", self.actor(user, history), self.actor.state.items[item])
        scores = products.double().numpy()
        if not np.isfinite(scores).all():
            raise ScoreError("values are not finite: vectors or weights are too large for the network")
        return scores[0] if alone else scores

    def save(self, file: Path) -> None:
        """See SessionAgent; the vectors are in the file, too."""
        vectors = {USERS: self.actor.state.users, ITEMS: self.actor.state.items[:-1]}
        described = {"kind": self.kind, "config": self.config.model_dump(mode="json"), "ratings": self.ratings}
        save_described(self.actor.state_dict() | vectors, described, file)

    @classmethod
    def load(cls, file: Path, description: Mapping[str, Any]) -> Self:
        """See SessionAgent."""
        config = parse_config(DRRNetworkConfig, description.get("config"), file=str(file))
        weights = read_weights(file)
        for name in (USERS, ITEMS):
            if name not in weights:
                raise BundleError(f"holds no {name}; export the agent again", file=str(file))
        vectors = {name: weights.pop(name) for name in (USERS, ITEMS)}
        require_finite(vectors, file=str(file))
        actor = DRRActor(vectors[USERS], vectors[ITEMS], config)
        put_weights(actor, weights, file=str(file))
        return cls(actor, config, description.get("ratings"))


def _positions(given: Any, name: str, size: int) -> Tensor:
    values = np.asarray(given)
    if values.dtype.kind not in "iu" or ((values < 0) | (values >= size)).any():
        raise ScoreError(f"{name} must hold positions from 0 to {size - 1}")
    return torch.as_tensor(values).long()
