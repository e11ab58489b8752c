"""Where the bundle's agent chooses: the candidates that a request brings, and what the agent values them at."""

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from rec.errors import ConfigError, ScoreError
from rec.recommender import Recommender
from rec.state import Candidates
from serve.problems import unprocessable

SOURCE: Final = "request"
SESSION: Final = "session"
CANDIDATES: Final = "candidates"
ITEM_IDS: Final = "item_id"


@final
class AgentStage:
    """Stands for retrieving and ranking: the context says what the agent sees, by the names it was trained on.

    `session` holds the fields of the session, `candidates` a list `item_id` and beside it a list of each field of
    candidates, one entry an item.
    """

    def __init__(self, recommender: Recommender) -> None:
        if recommender.agent is None:
            raise ConfigError(
                f"bundle {recommender.version} holds no agent: publish one with `tandem rl train ... --export`",
                field="agent",
            )
        self._agent = recommender.agent
        self._recommender = recommender

    def __call__(self, context: Mapping[str, JsonValue]) -> Candidates:
        """The items of the catalogue among those of the context, with the agent's values as scores, (1, M).

        Raises: ProblemError: naming the part of the context that is missing or wrong.
        """
        session, given = (self._part(context, name) for name in (SESSION, CANDIDATES))
        item_ids = given.pop(ITEM_IDS, None)
        field = f"context.{CANDIDATES}.{ITEM_IDS}"
        if not isinstance(item_ids, list) or not item_ids or not all(isinstance(item, str) for item in item_ids):
            raise unprocessable(field, "a list of item ids, at least one, is required")
        if len(set(item_ids)) < len(item_ids):
            raise unprocessable(field, "an item id stands there twice")
        state = {name: _array(value, f"context.{SESSION}.{name}") for name, value in session.items()}
        fields = {name: _array(value, f"context.{CANDIDATES}.{name}") for name, value in given.items()}
        for name, values in fields.items():
            if values.ndim == 0 or len(values) != len(item_ids):
                raise unprocessable(
                    f"context.{CANDIDATES}.{name}", f"one entry for each of {len(item_ids)} items is required"
                )
        try:
            values = self._agent.score(state, fields)
        except ScoreError as error:
            raise unprocessable("context", error.message) from error
        if values.shape != (len(item_ids),):
            raise unprocessable("context", "one session is required")
        positions = np.array([self._recommender.position_of(item) for item in item_ids], np.int32)
        known = np.argsort(positions < 0, kind="stable")
        items = positions[known][None]
        return Candidates(items, np.where(items >= 0, values[known], -np.inf), SOURCE)

    def _part(self, context: Mapping[str, JsonValue], name: str) -> dict[str, Any]:
        part = context.get(name)
        if not isinstance(part, dict):
            raise unprocessable(f"context.{name}", "an object is required, as an agent chooses here: what it is to see")
        return dict(part)


def _array(value: JsonValue, field: str) -> NDArray[Any]:
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    # NumPy's answers to whole numbers beyond int64.
    if found.dtype.kind == "u" or (found.dtype.kind == "O" and all(type(each) is int for each in found.flat)):
        raise unprocessable(field, "out of range: whole numbers from -2**63 to below 2**63 are required")
    if found.dtype.kind not in "if":
        raise unprocessable(field, "a number, or lists of numbers of one length, are required")
    return found
