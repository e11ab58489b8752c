"""Errors that say where, what was expected and what to do next."""

from typing import Any


class TandemError(Exception):
    """Base of every error Tandem raises on purpose.

    Args: message: what is required, what was found, what to do. file, row, column, field: where, as far as known;
        row is the 1-based line of a text file, or the 0-based row of a table.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        row: int | None = None,
        column: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.row = row
        self.column = column
        self.field = field

    def __str__(self) -> str:
        where = ", ".join(
            f"{name} {value!r}" if name != "row" else f"row {value}"
            for name, value in (("file", self.file), ("row", self.row), ("column", self.column), ("field", self.field))
            if value is not None
        )
        return f"{self.message} [{where}]" if where else self.message

    def to_json(self) -> dict[str, Any]:
        """The error as the command line prints it under `error`; places that are unknown are left out."""
        where = {"file": self.file, "row": self.row, "column": self.column, "field": self.field}
        known = {name: value for name, value in where.items() if value is not None}
        return {"type": type(self).__name__, "message": self.message, **known}


class ConfigError(TandemError):
    """A configuration is misspelt, out of range or contradicts itself."""

    exit_code = 2


class DataError(TandemError):
    """A data file or table is not what it has to be."""

    exit_code = 2


class BundleError(TandemError):
    """A model bundle is incomplete, damaged, or of another format or schema."""

    exit_code = 2


class TrainingError(TandemError):
    """Training could not go on: a loss that is not finite, workers that keep dying, nothing to learn from."""


class ScoreError(TandemError):
    """A score that has to be finite is not, or a probability's parameter is out of range."""


class SupportError(TandemError):
    """A log cannot say what is asked of it: a propensity is no probability above 0, or too little was ever shown."""

    exit_code = 2
