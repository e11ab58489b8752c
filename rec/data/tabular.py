"""Tables of your own, in Parquet or CSV: a log of interactions, and beside it users and items if there are such.

`path` names the log, or a folder with `interactions.parquet` (`.csv`); users.parquet and items.parquet (.csv) in the
same folder are read too. Columns of these are features; `title` of items is what people read. Kinds are inferred:

- numbers are numeric, lists of strings or integers multi_hot, lists of floats vector, everything else categorical;
- in CSV, a column is numeric if all its values are, and multi_hot if one of its values holds a `|`;
- a column of strings whose name ends in `_text` is text.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rec.config import DataConfig
from rec.data.assembly import LogColumns, assemble
from rec.data.columns import NUMBER, RawTable, flags, is_number, is_string, pc
from rec.data.dataset import Dataset
from rec.data.delimited import read_delimited
from rec.data.side_tables import TEXT_SUFFIX, SideTable, side_table
from rec.errors import DataError
from rec.schema import Kind, Side
from rec.storage import replace_file

LIST_SEPARATOR: Final = "|"
METADATA_KEY: Final = b"tandem"
ARROW_TYPES: Final[Mapping[Kind, pa.DataType]] = {
    "categorical": pa.string(),
    "text": pa.string(),
    "numeric": pa.float64(),
    "multi_hot": pa.list_(pa.string()),
    "vector": pa.list_(pa.float64()),
}


def read_parquet(config: DataConfig) -> Dataset:
    """A data set from Parquet files; those of write_parquet come back as they were.

    Raises: DataError: naming file, row (from 0) and column.
    """
    return _read(config, ".parquet", read_parquet_table, _parquet_kind)


def read_csv(config: DataConfig) -> Dataset:
    """A data set from CSV files in UTF-8 with a header; fields may stand in double quotes.

    Raises: DataError: naming file, row (the line) and column.
    """
    return _read(config, ".csv", lambda path: read_delimited(path, delimiter=",", quoted=True), _csv_kind)


def read_side_tables(folder: Path, config: DataConfig) -> tuple[SideTable, SideTable]:
    """users.parquet and items.parquet of a folder; what is not there is empty.

    Raises: DataError: naming file, row (from 0) and column.
    """
    users = _side(folder / "users.parquet", "user", config.columns.user_id, read_parquet_table, _parquet_kind)
    items = _side(folder / "items.parquet", "item", config.columns.item_id, read_parquet_table, _parquet_kind)
    return users, items


def write_side_tables(dataset: Dataset, folder: str | Path) -> None:
    """Write users.parquet and items.parquet, from which the same tables are read."""
    target = Path(folder)
    kinds: dict[str, Kind] = {feature.name: feature.kind for feature in dataset.schema.features}
    for name, frame in (("users", dataset.users), ("items", dataset.items)):
        about = {"kinds": {column: kinds[column] for column in frame.columns if column in kinds}}
        table = pa.table(
            {column: _to_arrow(frame[column], kinds.get(column, "categorical")) for column in frame.columns}
        )
        _write_table(table, about, target / f"{name}.parquet")


def write_parquet(dataset: Dataset, folder: str | Path) -> None:
    """Write interactions.parquet, users.parquet and items.parquet, from which read_parquet reads the same data set."""
    target = Path(folder)
    log = dataset.interactions
    columns = {
        "user_id": _taken(log.user_ids, log.user),
        "item_id": _taken(log.item_ids, log.item),
        "timestamp": pa.array(log.timestamp).cast(pa.timestamp("ms", tz="UTC")),
    }
    if log.rating is not None:
        columns["rating"] = pa.array(log.rating)
    if log.action is not None:
        columns["action"] = _taken(log.actions, log.action)
    about = {"name": dataset.name, "actions": log.actions, "dropped": dataset.dropped}
    _write_table(pa.table(columns), about, target / "interactions.parquet")
    write_side_tables(dataset, target)


def _read(
    config: DataConfig,
    suffix: str,
    read_table: Callable[[Path], RawTable],
    infer: Callable[[RawTable, str], Kind],
) -> Dataset:
    given = Path(config.path or "")
    path = given / f"interactions{suffix}" if given.is_dir() else given
    if path != given and not path.exists():
        raise DataError(
            f"the folder holds no interactions{suffix}; name the log so, or give the log's own file as --path",
            file=str(given),
        )
    log = read_table(path)
    about = _about(log)
    columns = _log_columns(log, config)
    users = _side(path.with_name(f"users{suffix}"), "user", config.columns.user_id, read_table, infer)
    items = _side(path.with_name(f"items{suffix}"), "item", config.columns.item_id, read_table, infer)
    dataset = assemble(
        about.get("name", config.name), log, columns, users=users, items=items, actions=about.get("actions", ())
    )
    return replace(dataset, dropped=about.get("dropped", {}))


def _log_columns(log: RawTable, config: DataConfig) -> LogColumns:
    """Which column of a log is what.

    Without a mapping a column named `rating` or `action` is taken for what its name says. A column that is none of
    these is refused: it might be a misspelt rating, and the log would silently count as all positive.
    """
    wanted = config.columns
    names = log.table.column_names
    rating, action = wanted.rating, wanted.action
    if rating is None and action is None:
        rating = "rating" if "rating" in names else None
        action = "action" if "action" in names else None
    if rating is not None and action is not None:
        raise DataError("a log has ratings or actions; map one of the two in `columns`", file=log.file, column=action)
    mapped = [name for name in (wanted.user_id, wanted.item_id, wanted.timestamp, rating, action) if name is not None]
    for name in mapped:
        log.column(name)
    for name in names:
        if name not in mapped and name not in ("rating", "action"):
            raise DataError(
                f"unknown column; the log's columns are {', '.join(mapped)}. Map it in `columns`, or leave it out",
                file=log.file,
                column=name,
            )
    return LogColumns(wanted.user_id, wanted.item_id, wanted.timestamp, rating, action, config.timestamp_unit)


def _side(
    path: Path,
    side: Side,
    id_column: str,
    read_table: Callable[[Path], RawTable],
    infer: Callable[[RawTable, str], Kind],
) -> SideTable:
    if not path.exists():
        return SideTable()
    raw = read_table(path)
    id_column = id_column if id_column in raw.table.column_names else f"{side}_id"
    written = _about(raw).get("kinds", {})
    others = [name for name in raw.table.column_names if name not in (id_column, "title")]
    kinds: dict[str, Kind] = {name: written.get(name) or infer(raw, name) for name in others}
    return side_table(raw, side, id_column, kinds, separator=LIST_SEPARATOR)


def _csv_kind(raw: RawTable, name: str) -> Kind:
    if name.endswith(TEXT_SUFFIX):
        return "text"
    column = raw.column(name)
    empty = flags(pc.equal(column, ""))
    if (empty | flags(pc.match_substring_regex(column, NUMBER))).all() and not empty.all():
        return "numeric"
    return "multi_hot" if flags(pc.match_substring(column, LIST_SEPARATOR)).any() else "categorical"


def _parquet_kind(raw: RawTable, name: str) -> Kind:
    kind = raw.column(name).type
    if is_string(kind):
        return "text" if name.endswith(TEXT_SUFFIX) else "categorical"
    if is_number(kind):
        return "numeric"
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return "categorical"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_floating(kind.value_type):
            return "vector"
        if is_string(kind.value_type) or pa.types.is_integer(kind.value_type):
            return "multi_hot"
    raise DataError(
        f"a column of type {kind} is no feature; convert it to strings, numbers or lists of them, or leave it out",
        file=raw.file,
        column=name,
    )


def read_parquet_table(path: Path) -> RawTable:
    """A Parquet file as it is.

    Raises: DataError: for a file that is missing, empty, or no Parquet.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError("no such file; check the path", file=str(path)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"not readable as Parquet: {error}", file=str(path)) from error
    if not table.num_rows:
        raise DataError("there are no rows; at least one is required", file=str(path))
    return RawTable(file=str(path), table=table, row_in_file=lambda row: row)


def _about(raw: RawTable) -> dict[str, Any]:
    """What write_parquet noted about a table; nothing in a table from elsewhere."""
    return json.loads((raw.table.schema.metadata or {}).get(METADATA_KEY, b"{}"))


def _write_table(table: pa.Table, about: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    noted = table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    pq.write_table(noted, buffer, compression="zstd")
    replace_file(path, buffer.getvalue())


def _taken(vocabulary: Any, codes: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(vocabulary, pa.string())).cast(pa.string())


def _to_arrow(column: pd.Series, kind: Kind) -> pa.Array:
    return pa.array(column.astype(object).to_list(), ARROW_TYPES[kind], from_pandas=True)
