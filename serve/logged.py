"""What was logged of a request, as the spool keeps it: answers with their impressions, and feedback."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_json

from rec.data.event_rows import TableName

Row = Mapping[str, Any]
# The order in which the tables are written, so that an impression is never there before its request.
TABLES: Final[tuple[TableName, ...]] = ("requests", "impressions", "feedback")

# What was acknowledged once more, by a process that does not know whether the disk has the first record.
AGAIN: Final = "again"


def answer_record(request: Row, impressions: Sequence[Row]) -> bytes:
    """A request with all that was shown: one record, so that neither is ever there without the other."""
    return to_json({"requests": [request], "impressions": impressions})


def feedback_record(events: Sequence[Row], again: Sequence[Row] = ()) -> bytes:
    """Events that were accepted together, and those that came again: they are new only where the first were lost."""
    return to_json({"feedback": events, AGAIN: again} if again else {"feedback": events})


def rows_of(payload: bytes) -> dict[str, list[dict[str, Any]]]:
    """The rows of a record, by table, and under `AGAIN`.

    Raises: ValueError: for what is none.
    """
    record = json.loads(payload)
    if not isinstance(record, dict):
        raise ValueError(f"a record is a JSON object; found {payload[:80]!r}")
    return record
