"""The Open Bandit Dataset: fashion shown at three positions, uniformly at random or by Thompson sampling.

Source: Saito et al. (2021), arXiv:2008.07146; https://research.zozo.com/data.html.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rec.data.columns import RawTable, categories, numbers
from rec.data.delimited import read_bytes
from rec.errors import DataError

Policy = Literal["random", "bts"]
Campaign = Literal["all", "men", "women"]

N_POSITIONS: Final = 3
USER_FEATURES: Final = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")
_DATE_AND_MINUTE: Final = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d"
AFFINITY: Final = "user-item_affinity_"
ITEM_NUMBER: Final = "item_feature_0"
ITEM_CATEGORIES: Final = ("item_feature_1", "item_feature_2", "item_feature_3")


@final
@dataclass(frozen=True, slots=True)
class OpenBandit:
    """What one policy showed in one campaign, one row an impression, by time.

    Attributes:
        action: item shown, 0 to n_actions - 1, int64, (n,).
        position: 0 to 2, int64, (n,).
        reward: 1 for a click, (n,).
        propensity: probability of the item at the position, (n,).
        timestamp: UTC milliseconds, (n,).
        context: features of the user as 0 or 1, one column per value of a feature, float32, (n, F).
        affinity: past clicks of users like this one on each item, float32, (n, n_actions).
        action_context: features of the items: a number, and codes of categories, float64, (n_actions, G).
    """

    action: NDArray[np.int64]
    position: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    timestamp: NDArray[np.int64]
    context: NDArray[np.float32]
    affinity: NDArray[np.float32]
    action_context: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.action)

    @property
    def n_actions(self) -> int:
        """Number of items of the campaign."""
        return len(self.action_context)

    def bandit_feedback(self) -> dict[str, Any]:
        """The log as Open Bandit Pipeline holds it."""
        return {
            "n_rounds": len(self),
            "n_actions": self.n_actions,
            "action": self.action,
            "position": self.position,
            "reward": self.reward,
            "pscore": self.propensity,
            "context": self.context,
            "action_context": self.action_context,
        }


def read_open_bandit(path: str | Path, policy: Policy, campaign: Campaign) -> OpenBandit:
    """One policy's log of one campaign, from the folder that holds `random` and `bts`.

    Raises: DataError: naming file, row and column.
    """
    folder = Path(path) / policy / campaign
    log, items = _read(folder / f"{campaign}.csv"), _read(folder / "item_context.csv")
    action_context = _item_features(items)
    n_actions = len(action_context)
    item, position = numbers(log, "item_id"), numbers(log, "position")
    click, propensity = numbers(log, "click"), numbers(log, "propensity_score")
    log.refuse(~np.isin(item, np.arange(n_actions)), "item_id", f"an item of item_context.csv, 0 to {n_actions - 1}")
    log.refuse(~np.isin(position, np.arange(N_POSITIONS) + 1), "position", f"1 to {N_POSITIONS} is required")
    log.refuse(~np.isin(click, (0, 1)), "click", "0 or 1 is required")
    log.refuse(~((propensity > 0) & (propensity <= 1)), "propensity_score", "a probability above 0 is required")
    text = pd.Series(log.column("timestamp").to_pylist())
    minutes: Any = text.where(text.str.match(_DATE_AND_MINUTE)).to_list()
    time = pd.Series(pd.to_datetime(minutes, format="ISO8601", utc=True, errors="coerce"))
    log.refuse(time.isna().to_numpy(), "timestamp", "a time such as 2019-11-24 00:00:34+00:00 is required")
    affinity = [_affinity(log, f"{AFFINITY}{place}") for place in range(n_actions)]
    order = np.argsort(time.to_numpy(), kind="stable")
    return OpenBandit(
        action=item.astype(np.int64)[order],
        position=position.astype(np.int64)[order] - 1,
        reward=click.astype(np.float64)[order],
        propensity=propensity[order],
        timestamp=time.dt.as_unit("ms").astype(np.int64).to_numpy()[order],
        context=_one_hot(log)[order],
        affinity=np.stack(affinity, axis=1)[order],
        action_context=action_context,
    )


def _read(path: Path) -> RawTable:
    """A file with a header, whose first column has no name: the number of the row."""
    text = read_bytes(path, encodings=("utf-8",))
    try:
        names = pd.read_csv(io.BytesIO(text), dtype=str, header=None, nrows=1, keep_default_na=False).iloc[0]
        frame = pd.read_csv(io.BytesIO(text), dtype=str, index_col=0, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise DataError(f"not readable as a table: {error}", file=str(path)) from error
    for name in names[names.duplicated()]:
        raise DataError("the header names this column twice; rename one", file=str(path), row=1, column=name)
    return RawTable(
        file=str(path), table=pa.Table.from_pandas(frame, preserve_index=False), row_in_file=lambda row: row + 2
    )


def _affinity(log: RawTable, name: str) -> NDArray[np.float32]:
    values = numbers(log, name)
    log.refuse(np.abs(values) > np.finfo(np.float32).max, name, "a number that float32 holds is required")
    return values.astype(np.float32)


def _one_hot(log: RawTable) -> NDArray[np.float32]:
    """One column per value of each feature of the users, in alphabetical order."""
    blocks = []
    for name in USER_FEATURES:
        values, codes = np.unique(categories(log, name).astype(str), return_inverse=True)
        blocks.append(np.eye(len(values), dtype=np.float32)[codes])
    return np.concatenate(blocks, axis=1)


def _item_features(items: RawTable) -> NDArray[np.float64]:
    """By item: the number as it is, categories as codes in alphabetical order."""
    place = numbers(items, "item_id")
    n_items = len(items)
    wrong = ~np.isin(place, np.arange(n_items)) | pd.Series(place).duplicated().to_numpy()
    items.refuse(wrong, "item_id", f"each of 0 to {n_items - 1} once is required")
    first = numbers(items, ITEM_NUMBER)
    codes = [np.unique(categories(items, name).astype(str), return_inverse=True)[1] for name in ITEM_CATEGORIES]
    return np.stack([first, *codes], axis=1).astype(np.float64)[np.argsort(place)]
