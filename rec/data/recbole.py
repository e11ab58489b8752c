"""RecBole's atomic files: NAME.inter, NAME.user and NAME.item, tab-separated, with a type in every column's header.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html. Types map to kinds: token categorical, token_seq
multi_hot, float numeric, float_seq vector. The format has no type for text: a token_seq whose name ends in `_text`, and
the `title` of an item, are words. `timestamp` is in seconds.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.data.assembly import LogColumns, assemble
from rec.data.columns import RawTable
from rec.data.dataset import Dataset
from rec.data.delimited import read_delimited
from rec.data.side_tables import TEXT_SUFFIX, SideTable, side_table
from rec.errors import DataError
from rec.schema import Kind, Side
from rec.storage import Home

KINDS: Final[Mapping[str, Kind]] = {
    "token": "categorical",
    "token_seq": "multi_hot",
    "float": "numeric",
    "float_seq": "vector",
}
TYPES: Final[Mapping[Kind, str]] = {**{kind: name for name, kind in KINDS.items()}, "text": "token_seq"}
SEPARATOR: Final = " "

logger = logging.getLogger(__name__)


def read_recbole(path: str | Path) -> Dataset:
    """A data set from a folder of atomic files, or from the `.inter` file among them.

    Columns of the log beside user_id, item_id, timestamp, rating and action are not read; a warning names them.

    Raises: DataError: naming file, row (the line) and column.
    """
    inter = _inter_file(Path(path))
    log, kinds = _read_typed(inter)
    unused = [name for name in kinds if name not in ("user_id", "item_id", "timestamp", "rating", "action")]
    if unused:
        logger.warning("%s: columns not read: %s", inter, ", ".join(unused))
    columns = LogColumns(
        rating="rating" if "rating" in kinds else None,
        action="action" if "action" in kinds and "rating" not in kinds else None,
    )
    users = _read_side(inter.with_suffix(".user"), "user")
    items = _read_side(inter.with_suffix(".item"), "item")
    return assemble("recbole", log, columns, users=users, items=items)


def write_recbole(dataset: Dataset, location: str | Path) -> None:
    """Write a data set as atomic files into a folder, whose name RecBole takes for that of the data set.

    The folder may be a URL that `rec.storage.Home` opens.

    Reading them back gives the same data, but for its name, actions that never occur, and tabs and line breaks in
    texts, which become spaces.

    Raises: DataError: for a value that the format cannot hold: white space in a value of several, a tab or line break.
    """
    home = Home(location)
    dataset_name = home.location.rpartition("/")[2]
    log = dataset.interactions
    columns: dict[str, Sequence[str] | NDArray] = {
        "user_id:token": _tokens(log.user_ids, "user_id")[log.user],
        "item_id:token": _tokens(log.item_ids, "item_id")[log.item],
    }
    if log.rating is not None:
        columns["rating:float"] = log.rating.astype(str)
    if log.action is not None:
        columns["action:token"] = _tokens(log.actions, "action")[log.action]
    columns["timestamp:float"] = _seconds(log.timestamp)
    home.write(f"{dataset_name}.inter", _lines(columns))
    kinds: dict[str, Kind] = {feature.name: feature.kind for feature in dataset.schema.features}
    for suffix, id_name, frame in ((".user", "user_id", dataset.users), (".item", "item_id", dataset.items)):
        columns = {f"{id_name}:token": _tokens(frame[id_name], id_name)}
        for name in frame.columns.drop(id_name):
            kind = "text" if name == "title" else kinds[name]
            if kind == "text" and name != "title" and not name.endswith(TEXT_SUFFIX):
                raise DataError(f"a text's name has to end in {TEXT_SUFFIX} in this format; rename it", column=name)
            columns[f"{name}:{TYPES[kind]}"] = _written(frame[name], kind)
        home.write(f"{dataset_name}{suffix}", _lines(columns))


def _inter_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"one .inter file is required in the folder, found {names}; give its path", file=str(path))
    return found[0]


def _read_typed(path: Path) -> tuple[RawTable, dict[str, Kind]]:
    """An atomic file without the types in its header, and the kind of each column."""
    raw = read_delimited(path, delimiter="\t")
    kinds: dict[str, Kind] = {}
    for header in raw.table.column_names:
        name, _, kind = header.rpartition(":")
        if not name or kind not in KINDS:
            raise DataError(
                f"a column's header is NAME:TYPE, TYPE one of {', '.join(KINDS)}; found {header!r}",
                file=str(path),
                row=1,
                column=name or header,
            )
        if name in kinds:
            raise DataError("the header names this column twice; rename one", file=str(path), row=1, column=name)
        kinds[name] = "text" if kind == "token_seq" and name.endswith(TEXT_SUFFIX) else KINDS[kind]
    return replace(raw, table=raw.table.rename_columns(list(kinds))), kinds


def _read_side(path: Path, side: Side) -> SideTable:
    if not path.exists():
        return SideTable()
    raw, kinds = _read_typed(path)
    return side_table(raw, side, f"{side}_id", kinds, separator=SEPARATOR)


def _written(column: pd.Series, kind: Kind) -> NDArray[np.object_]:
    """A column as the format's text; empty where there is nothing."""
    values = column.astype(object).to_list()
    if kind == "categorical":
        return _tokens([value if isinstance(value, str) else "" for value in values], str(column.name))
    if kind == "text":
        texts = [re.sub(r"[\t\r\n]+", SEPARATOR, value) if isinstance(value, str) else "" for value in values]
        return np.array(texts, dtype=object)
    if kind == "numeric":
        return np.array(["" if np.isnan(value) else repr(float(value)) for value in values], dtype=object)
    if kind == "vector":
        texts = [SEPARATOR.join(repr(float(part)) for part in value) if value is not None else "" for value in values]
        return np.array(texts, dtype=object)
    broken = next((part for parts in values for part in parts if part.split() != [part]), None)
    if broken is not None:
        raise DataError(f"a value of several cannot hold white space: {broken!r}; replace it", column=str(column.name))
    return np.array([SEPARATOR.join(parts) for parts in values], dtype=object)


def _tokens(values: Sequence[str] | NDArray[np.object_] | pd.Series, name: str) -> NDArray[np.object_]:
    broken = next((value for value in values if any(mark in value for mark in "\t\r\n")), None)
    if broken is not None:
        raise DataError(f"a token cannot hold a tab or a line break: {broken!r}; replace it", column=name)
    return np.array(list(values), dtype=object)


def _seconds(timestamp: NDArray[np.int64]) -> list[str]:
    """Milliseconds as seconds, to the millisecond where needed."""
    return [str(ms // 1000) if ms % 1000 == 0 else f"{ms // 1000}.{ms % 1000:03d}" for ms in timestamp.tolist()]


def _lines(columns: Mapping[str, Sequence[str] | NDArray]) -> bytes:
    lines = map("\t".join, zip(*columns.values(), strict=True))
    return ("\t".join(columns) + "\n" + "\n".join(lines) + "\n").encode()
