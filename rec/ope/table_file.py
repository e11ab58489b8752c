"""A Parquet or CSV file of one round a row, as rows for the estimators."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rec.config import OpeColumns
from rec.data.columns import RawTable, ids, numbers
from rec.data.delimited import read_delimited
from rec.data.tabular import read_parquet_table
from rec.errors import ConfigError, DataError, SupportError
from rec.ope.estimate import Floats
from rec.ope.logged import LoggedActions
from rec.ope.support import refuse_improbable

SUFFIXES = (".parquet", ".csv")


def from_file(path: str | Path, columns: OpeColumns | None = None) -> LoggedActions:
    """Rounds of a file, one row each; rows of a CSV file are named by their line, those of Parquet count from 0.

    Raises: ConfigError: for a file that is neither. DataError: naming file, row and column, for a file that cannot be
        read, a column that is missing, a value that is no finite number, and a row without a user. SupportError: the
        same, for a value that is no probability.
    """
    return from_table(_read(Path(path)), columns or OpeColumns())


def from_table(raw: RawTable, names: OpeColumns) -> LoggedActions:
    """Rounds of a table, whose columns have these names; raises as `from_file`."""
    raw = _flags_as_numbers(raw)
    rewards, propensities, target_p = (numbers(raw, name) for name in (names.reward, names.propensity, names.target_p))
    for name, values, above_zero in ((names.propensity, propensities, True), (names.target_p, target_p, False)):
        refuse_improbable(values, name, above_zero=above_zero, file=raw.file, row_in_file=raw.row_in_file)
    clusters = None if names.user_id is None else _users(raw, names.user_id)
    q_logged, q_target = _optional(raw, names.q_logged), _optional(raw, names.q_target)
    try:
        return LoggedActions(rewards, propensities, target_p, clusters, q_logged, q_target)
    except (DataError, SupportError) as error:
        called: dict[str, str | None] = {"rewards": names.reward, "propensity": names.propensity}
        called |= {"target_p": names.target_p, "q_logged": names.q_logged, "q_target": names.q_target}
        raise type(error)(
            error.message,
            file=raw.file,
            row=None if error.row is None else raw.row_in_file(error.row),
            column=called.get(error.column or "", error.column),
        ) from error


def _read(path: Path) -> RawTable:
    if path.suffix not in SUFFIXES:
        raise ConfigError("a table is a .parquet or a .csv file", file=str(path), field="table")
    if path.is_dir():
        raise DataError("this is a folder; name one file of rounds in it", file=str(path))
    return read_parquet_table(path) if path.suffix == ".parquet" else read_delimited(path, delimiter=",", quoted=True)


def _flags_as_numbers(raw: RawTable) -> RawTable:
    table = raw.table
    for place, name in enumerate(table.column_names):
        if pa.types.is_boolean(table.schema.field(place).type):
            table = table.set_column(place, name, table.column(place).cast(pa.int8()))
    return RawTable(raw.file, table, raw.row_in_file)


def _optional(raw: RawTable, name: str | None) -> Floats | None:
    return None if name is None else numbers(raw, name)


def _users(raw: RawTable, name: str) -> NDArray[np.object_]:
    if name not in raw.table.column_names:
        raise DataError(
            f"no such column; the file has {', '.join(raw.table.column_names)}: map it with --columns.user-id NAME (in "
            "Python OpeColumns(user_id=NAME)), or to None where every row is a user of its own",
            file=raw.file,
            column=name,
        )
    users, codes = ids(raw, name)
    return users[codes]
