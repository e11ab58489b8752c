"""How nearest items are found."""

from typing import Literal

from pydantic import PositiveInt

from rec.config.base import Config


class IndexConfig(Config):
    """How nearest items are found: `flat` compares all, `hnsw` walks a graph, `ivf` looks into the nearest lists.

    `hnsw_build` is how many neighbours are looked at for each item while the graph is built (efConstruction; FAISS's
    default): more make a better graph, and take as much longer.
    """

    kind: Literal["flat", "hnsw", "ivf"] = "flat"
    hnsw_neighbors: PositiveInt = 32
    hnsw_build: PositiveInt = 40
    hnsw_search: PositiveInt = 256
    ivf_lists: PositiveInt = 1024
    ivf_probes: PositiveInt = 32
