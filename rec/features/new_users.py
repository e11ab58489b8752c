"""Users whom a snapshot does not hold, by what they say of themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rec.errors import DataError
from rec.features.snapshot import Snapshot
from rec.state import DESCRIBED, UserStates


def described_states(
    snapshot: Snapshot, states: UserStates, user_ids: Sequence[str], features: Sequence[Mapping[str, Any]]
) -> UserStates:
    """States in which those whom the snapshot does not hold have the features that they give, encoded as in training.

    For those whom it does hold, and those who give none, nothing changes. A feature that is not given is missing.

    Args: user_ids, features: of each state; a feature's value by its name, (B,).
    Raises: DataError: naming the feature that users do not have, or whose value is of another kind.
    """
    rows = [row for row, given in enumerate(features) if given and states.user[row] < 0]
    if not rows:
        return states
    names = [feature.name for feature in snapshot.encoders.schema.of_side("user")]
    for row in rows:
        for name in features[row]:
            if name not in names:
                raise DataError(f"no feature of the users; there are {', '.join(names) or 'none'}", column=str(name))
    table = pd.DataFrame([{"user_id": user_ids[row], **features[row]} for row in rows], dtype=object)
    with np.errstate(over="ignore"):  # looked at below
        encoded = snapshot.encoders.encode("user", table.reindex(columns=["user_id", *names]))
    for name, values in encoded.items():
        if not np.isfinite(values).all():
            raise DataError("a feature has to be finite, and of a size that single precision holds", column=name)
    together = {name: values.copy() for name, values in states.features.items()}
    for name, values in encoded.items():
        together[name][rows] = values
    user = states.user.copy()
    user[rows] = DESCRIBED
    return replace(states, user=user, features=together)
