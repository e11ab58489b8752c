"""What a table of candidates for many users holds, and how it is written."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from rec.config.base import Config

TableFormat = Literal["parquet", "delta"]


class BatchConfig(Config):
    """What `tandem candidates` writes.

    Attributes:
        k: candidates a user.
        ranked: both stages, as `recommend` orders them; else what retrieval alone finds.
        format: a folder of Parquet files with a manifest, or a Delta table.
        users_per_part: users of one file, which are also what a worker holds in memory at once.
        workers: Ray tasks at a time; 0 does everything in this process.
    """

    k: PositiveInt = 50
    ranked: bool = False
    format: TableFormat = "parquet"
    users_per_part: PositiveInt = 5000
    workers: NonNegativeInt = 2
