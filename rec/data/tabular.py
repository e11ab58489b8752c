"""Tables of your own, in Parquet or CSV: a log of interactions, and beside it users and items if there are such.

`path` names the log, or a folder with `interactions.parquet` (`.csv`); users.parquet and items.parquet (.csv) in the
same folder are read too. Columns of these are features; `title` of items is what people read. Kinds are inferred:

- numbers are numeric, lists of strings or integers multi_hot, lists of floats vector, everything else categorical;
- in CSV, a column is numeric if all its values are, and multi_hot if one of its values holds a `|`;
- a column of strings whose name ends in `_text` is text.

Of several values in a row, the empty and missing ones are left out.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from rec.config import Config, DataConfig
from rec.data.assembly import LogColumns, assemble
from rec.data.columns import NUMBER, RawTable, first_row, flags, is_list, is_number, is_string, pc
from rec.data.dataset import Dataset
from rec.data.delimited import read_delimited
from rec.data.side_tables import TEXT_SUFFIX, SideTable, side_table
from rec.errors import DataError
from rec.schema import FeatureSchema, Kind, Side
from rec.storage import Home

LIST_SEPARATOR: Final = "|"
METADATA_KEY: Final = b"tandem"
ARROW_TYPES: Final[Mapping[Kind, pa.DataType]] = {
    "categorical": pa.string(),
    "text": pa.string(),
    "numeric": pa.float64(),
    "multi_hot": pa.list_(pa.string()),
    "vector": pa.list_(pa.float64()),
}


class Notes(Config):
    """What write_parquet notes about a table beside its columns; nothing in a table from elsewhere."""

    name: str | None = None
    actions: tuple[str, ...] = ()
    dropped: dict[str, int] = Field(default_factory=dict)
    kinds: dict[str, Kind] = Field(default_factory=dict)


def read_parquet(config: DataConfig) -> Dataset:
    """A data set from Parquet files; those of write_parquet come back as they were.

    Raises: DataError: naming file, row (from 0) and column.
    """
    return _read(config, ".parquet", read_parquet_table, _parquet_kind)


def read_csv(config: DataConfig) -> Dataset:
    """A data set from CSV files in UTF-8 with a header; fields may stand in double quotes.

    Raises: DataError: naming file, row (the line) and column.
    """
    return _read(config, ".csv", _read_csv_table, _csv_kind)


def read_side_tables(folder: Path, config: DataConfig) -> tuple[SideTable, SideTable]:
    """users.parquet and items.parquet of a folder; what is not there is empty.

    Raises: DataError: naming file, row (from 0) and column.
    """
    users = _side(folder / "users.parquet", "user", config.columns.user_id, read_parquet_table, _parquet_kind)
    items = _side(folder / "items.parquet", "item", config.columns.item_id, read_parquet_table, _parquet_kind)
    return users, items


def read_items(file: str | Path, schema: FeatureSchema, *, id_column: str = "item_id") -> pd.DataFrame:
    """Items in a CSV or Parquet file, each column read as the feature a schema says it is; not all need be there.

    Args: id_column: what the ids are called, unless the file calls them `item_id`.
    Returns: columns item_id, `title` where there is one, and features.
    Raises: DataError: naming file, row and column.
    """
    path = Path(file)
    if path.suffix not in (".csv", ".parquet"):
        raise DataError("must be a .csv or a .parquet file; convert it", file=str(file))
    raw = read_parquet_table(path) if path.suffix == ".parquet" else _read_csv_table(path)
    id_column = id_column if id_column in raw.table.column_names else "item_id"
    kinds: dict[str, Kind] = {feature.name: feature.kind for feature in schema.of_side("item")}
    for name in raw.table.column_names:
        if name not in (id_column, "title", *kinds):
            raise DataError(
                f"no feature of the items; there are {', '.join(['title', *kinds])}. Rename it, or leave it out",
                file=raw.file,
                column=name,
            )
    side = side_table(raw, "item", id_column, kinds, separator=LIST_SEPARATOR)
    columns = {name: pd.Series(list(values), dtype=object) for name, values in side.columns.items()}
    return pd.DataFrame({"item_id": side.ids, **columns})


def write_side_tables(dataset: Dataset, location: str | Path, *, below: str = "") -> None:
    """Write users.parquet and items.parquet, from which the same tables are read.

    Args: location: a folder, or a URL that `rec.storage.Home` opens. below: of a folder in it, ending in a slash.
    """
    home = Home(location)
    kinds: dict[str, Kind] = {feature.name: feature.kind for feature in dataset.schema.features}
    for name, frame in (("users", dataset.users), ("items", dataset.items)):
        notes = Notes(kinds={column: kinds[column] for column in frame.columns if column in kinds})
        table = pa.table(
            {column: _to_arrow(frame[column], kinds.get(column, "categorical")) for column in frame.columns}
        )
        home.write(f"{below}{name}.parquet", _as_parquet(table, notes))


def write_parquet(dataset: Dataset, location: str | Path) -> None:
    """Write interactions.parquet, users.parquet and items.parquet, from which read_parquet reads the same data set.

    Args: location: a folder, or a URL that `rec.storage.Home` opens.
    """
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
    notes = Notes(name=dataset.name, actions=log.actions, dropped=dataset.dropped)
    Home(location).write("interactions.parquet", _as_parquet(pa.table(columns), notes))
    write_side_tables(dataset, location)


def _read_csv_table(path: Path) -> RawTable:
    return read_delimited(path, delimiter=",", quoted=True)


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
    notes = _notes(log)
    columns = _log_columns(log, config)
    users = _side(path.with_name(f"users{suffix}"), "user", config.columns.user_id, read_table, infer)
    items = _side(path.with_name(f"items{suffix}"), "item", config.columns.item_id, read_table, infer)
    name = config.name if notes.name is None else notes.name
    dataset = assemble(name, log, columns, users=users, items=items, actions=notes.actions)
    return replace(dataset, dropped=notes.dropped)


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
    written = _notes(raw).kinds
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
    if is_list(kind):
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

    Raises: DataError: for a file that is missing, empty, damaged, or no Parquet, and for text that is no UTF-8.
    """
    try:
        table = pq.read_table(path)
        names = table.column_names
    except FileNotFoundError as error:
        raise DataError("no such file; check the path", file=str(path)) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"not readable as Parquet: {error}; write the file anew", file=str(path)) from error
    for name, column in zip(names, table.columns, strict=True):
        if not _is_valid(column):
            raise DataError(
                "damaged, or text that is not in UTF-8; write the file anew",
                file=str(path),
                row=first_row(column, lambda part: not _is_valid(part)),
                column=name,
            )
    if not table.num_rows:
        raise DataError("there are no rows; at least one is required", file=str(path))
    return RawTable(file=str(path), table=table, row_in_file=lambda row: row)


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _notes(raw: RawTable) -> Notes:
    try:
        return Notes.model_validate_json((raw.table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["metadata", METADATA_KEY.decode(), *map(str, first["loc"])])
        raise DataError(
            f"not what Tandem notes in a file: {first['msg']}; remove this key of the file's metadata, or write the "
            "file anew",
            file=raw.file,
            field=field,
        ) from error


def _as_parquet(table: pa.Table, notes: Notes) -> bytes:
    buffer = io.BytesIO()
    noted = table.replace_schema_metadata({METADATA_KEY: notes.model_dump_json(exclude_defaults=True).encode()})
    pq.write_table(noted, buffer, compression="zstd")
    return buffer.getvalue()


def _taken(vocabulary: Any, codes: Any) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(vocabulary, pa.string())).cast(pa.string())


def _to_arrow(column: pd.Series, kind: Kind) -> pa.Array:
    return pa.array(column.astype(object).to_list(), ARROW_TYPES[kind], from_pandas=True)
