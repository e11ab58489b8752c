"""Who is shown: the share of impressions by creator, or any other group of items."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rec.item_groups import ItemGroups, gini

N_NAMED: Final = 10


def exposure(groups: ItemGroups, lists: Mapping[str, NDArray[np.integer]]) -> dict[str, Any]:
    """What share of the items in each set of lists is of each group; plain values.

    `gini` is over all groups of the catalogue (0: equal shares, towards 1: one has all), `top_share` that of the
    largest group, `shown` the share of groups that occur at all, `none` the share of items without a group; `largest`
    names the ten that are shown most.

    Args: lists: by name, catalogue positions, -1 for none.
    """
    models = {}
    for name, items in lists.items():
        shares = groups.shares(items)
        most = np.argsort(-shares, kind="stable")[:N_NAMED]
        models[name] = {
            "gini": gini(shares),
            "top_share": float(shares.max(initial=0.0)),
            "shown": float((shares > 0).mean()) if len(shares) else 0.0,
            "none": float(1.0 - shares.sum()) if (items >= 0).any() else 0.0,
            "largest": {str(groups.names[group]): float(shares[group]) for group in most if shares[group] > 0},
        }
    return {"column": groups.column, "n_groups": len(groups.names), "models": models}
