"""Delimited text files, read strictly: an encoding, a field count for every row, and lines that errors can name."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pa_csv

from rec.data.columns import RawTable
from rec.errors import DataError

SEPARATOR: Final = b"\x1f"  # stands in for a delimiter of several characters, which Arrow does not parse
BLOCK_BYTES: Final = 1 << 22


def read_delimited(
    path: Path,
    *,
    delimiter: str,
    names: Sequence[str] | None = None,
    quoted: bool = False,
    encodings: Sequence[str] = ("utf-8",),
) -> RawTable:
    """A delimited text file as a table of strings.

    Args: names: of the columns; None when the first line holds them. quoted: whether fields may stand in double quotes
        (and then hold delimiters and line breaks). encodings: tried in this order.
    Raises: DataError: for a file that is missing, empty, or not in any of the encodings, a header that repeats a name,
        and a row with too few or too many fields.
    """
    data = read_bytes(path, encodings=encodings).rstrip(b"\r\n")
    if len(delimiter) > 1:
        data = data.replace(delimiter.encode(), SEPARATOR)
    byte = delimiter if len(delimiter) == 1 else SEPARATOR.decode()
    first_line = 1
    if names is None:
        header, _, data = data.partition(b"\n")
        names = next((fields for _, fields in _records(header, byte, quoted)), [])
        first_line = 2
        _check_header(path, names)
    if not data:
        raise DataError("there are no rows; at least one is required", file=str(path))
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(column_names=list(names), block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(
                delimiter=byte,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
            ),
            convert_options=pa_csv.ConvertOptions(column_types={name: pa.string() for name in names}, check_utf8=False),
        )
    except pa.ArrowInvalid as error:
        broken = _broken_row(_records(data, byte, quoted), names)
        if broken is None:
            raise DataError(f"not readable as delimited text: {error}", file=str(path)) from error
        line, fields = broken
        raise DataError(
            f"a row needs {len(names)} fields ({', '.join(names)}) and this has {len(fields)}: "
            f"{delimiter.join(fields)[:80]!r}; fix or remove it{', or close its quote' if quoted else ''}",
            file=str(path),
            row=first_line + line - 1,
        ) from error

    def row_in_file(row: int) -> int:
        if not quoted:
            return first_line + row
        line = next(line for at, (line, _) in enumerate(_records(data, byte, quoted)) if at == row)
        return first_line + line - 1

    return RawTable(file=str(path), table=table, row_in_file=row_in_file)


def read_bytes(path: Path, *, encodings: Sequence[str]) -> bytes:
    """The text of a file, in UTF-8.

    Raises: DataError: for a file that is missing or empty, or that is not in any of the encodings.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file; check the path", file=str(path)) from error
    except OSError as error:
        raise DataError(f"not readable: {error.strerror}", file=str(path)) from error
    if not data.strip():
        raise DataError("the file is empty; at least one row is required", file=str(path))
    wrong = data.find(b"\0")  # UTF-16 and UTF-32 are full of them; text in any encoding expected here has none
    for encoding in encodings if wrong < 0 else ():
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            wrong = error.start
        else:
            return (data if encoding == "utf-8" else text.encode()).removeprefix(codecs.BOM_UTF8)
    raise DataError(
        f"not encoded as {' or '.join(encodings)}: byte {data[wrong]:#04x}; convert the file",
        file=str(path),
        row=data.count(b"\n", 0, wrong) + 1,
    )


def _check_header(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise DataError("the first line has to name the columns", file=str(path), row=1)
    for place, name in enumerate(names):
        if not name.strip():
            raise DataError(f"column {place + 1} of the header has no name", file=str(path), row=1)
        if name in names[:place]:
            raise DataError("the header names this column twice; rename one", file=str(path), row=1, column=name)


def _records(data: bytes, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """The first line (from 1) and the fields of each record; slow, for headers and for errors."""
    if not quoted:
        for number, line in enumerate(data.decode().split("\n"), start=1):
            yield number, line.removesuffix("\r").split(delimiter)
        return
    reader = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter)
    line = 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1
    except csv.Error:  # a quote that is never closed makes the rest of the file one field, which is too long
        yield line, []


def _broken_row(records: Iterator[tuple[int, list[str]]], names: Sequence[str]) -> tuple[int, list[str]] | None:
    """The first record that has another number of fields than there are columns."""
    return next(((line, fields) for line, fields in records if len(fields) != len(names)), None)
