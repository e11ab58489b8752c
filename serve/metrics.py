"""What a service counts and measures, as Prometheus reads it.

Each process keeps its own numbers, and writes them to a file of a folder that all share; whoever is asked gives
out all files, each under the label `process`. So one address has the numbers of every replica, whichever answers.
prometheus_client writes the format. Its counters have locks, and take three times as long as those here, which belong
to one thread.
"""

import json
import os
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, final

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

FOLDER: Final = "metrics"
# How often a process writes its numbers, and after how long without it counts as gone.
WRITE_S: Final = 1.0
STALE_S: Final = 15.0

_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_PROBABILITIES: Final = (1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.99)

_KINDS: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}

Labels = tuple[str, ...]
# By metric, pairs of label values and cells.
Numbers = Mapping[str, Sequence[Sequence[Any]]]


@final
@dataclass(frozen=True, slots=True)
class Family:
    """One metric: what it says, and by which labels; a histogram has buckets, a summary the sum and the count alone."""

    kind: Literal["counter", "gauge", "histogram", "summary"]
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "tandem_requests_total": Family("counter", "Requests answered.", ("route", "status")),
    "tandem_request_seconds": Family("histogram", "Time to the end of an answer.", ("route",), _SECONDS),
    "tandem_stage_seconds": Family("histogram", "Time of each stage of a recommendation.", ("stage",), _SECONDS),
    "tandem_recommendations_total": Family("counter", "Slates drawn.", ("arm",)),
    "tandem_degraded_total": Family("counter", "Slates drawn without the ranker.", ("arm",)),
    "tandem_short_total": Family("counter", "Slates for which items ran out.", ("arm",)),
    "tandem_unknown_users_total": Family("counter", "Slates for users the model has no row of.", ("arm",)),
    "tandem_items_total": Family("counter", "Items shown, by what found them.", ("arm", "source")),
    "tandem_propensity": Family("histogram", "Propensities of the items shown.", ("arm",), _PROBABILITIES),
    "tandem_score": Family("summary", "Scores of the candidates shown.", ("arm",)),
    "tandem_score_squares": Family("summary", "Squares of these scores.", ("arm",)),
    "tandem_distinct_items": Family("gauge", "Different items this process has shown with its model.", ("arm",)),
    "tandem_eligible_items": Family("gauge", "Items that might have been shown, at most.", ("arm",)),
    "tandem_feedback_total": Family("counter", "Events of feedback.", ("result",)),
    "tandem_unlogged_total": Family("counter", "Answers that could not be logged."),
    "tandem_spool_bytes": Family("gauge", "Bytes of the log that are on the disk and not yet deleted."),
    "tandem_unkept_keys_total": Family("counter", "Answers whose idempotency key could not be kept."),
    "tandem_key_bytes": Family("gauge", "Bytes of idempotency keys that are on the disk and not yet deleted."),
    "tandem_log_records_total": Family("counter", "Answers and deliveries of feedback taken into the tables."),
    "tandem_log_refused_total": Family("counter", "Records that the tables refused."),
    "tandem_log_commit_timestamp_seconds": Family("gauge", "When the tables last took all there was; 0: never yet."),
    "tandem_model_info": Family("gauge", "1 for each arm and the version it answers by.", ("arm", "version")),
    "tandem_model_refused": Family("gauge", "1 while CURRENT names a version that was refused."),
    "tandem_model_swaps_total": Family("counter", "Versions that took over."),
}


@final
class Metrics:
    """The numbers of one process; belongs to one thread."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, list[float]]] = {name: {} for name in FAMILIES}

    def add(self, name: str, *labels: str, amount: float = 1.0) -> None:
        """Counts."""
        self._cell(name, labels, 1)[0] += amount

    def set(self, name: str, *labels: str, value: float) -> None:
        """Says what is now; 0 stands for what is no more."""
        self._cell(name, labels, 1)[0] = value

    def observe(self, name: str, *labels: str, values: Iterable[float]) -> None:
        """Takes values into a histogram or summary."""
        buckets = FAMILIES[name].buckets
        cell = self._cell(name, labels, len(buckets) + 2)
        for value in values:
            cell[bisect_left(buckets, value)] += 1
            cell[-1] += value

    def drop(self, name: str) -> None:
        """Forgets all values of a metric."""
        self._values[name].clear()

    def to_json(self) -> Numbers:
        """The numbers as plain values, which do not change any more."""
        return {
            name: [[list(labels), list(cell)] for labels, cell in cells.items()] for name, cells in self._values.items()
        }

    def _cell(self, name: str, labels: Labels, size: int) -> list[float]:
        cells = self._values[name]
        cell = cells.get(labels)
        if cell is None:
            if len(labels) != len(FAMILIES[name].labels):
                raise ValueError(f"{name} takes the labels {FAMILIES[name].labels}; found {labels}")
            cell = cells[labels] = [0.0] * size
        return cell


@final
class _Families:
    """The numbers of processes as a registry of the library: every family once, each sample with its process."""

    def __init__(self, processes: Mapping[str, Numbers]) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """The families, in the order of the table."""
        for name, family in FAMILIES.items():
            told = _KINDS[family.kind](name, family.help, labels=("process", *family.labels))
            for process, numbers in self._processes.items():
                for labels, cell in numbers.get(name, ()):
                    told.add_metric((process, *labels), *_told(family, cell))
            yield told


def _told(family: Family, cell: Sequence[float]) -> tuple[Any, ...]:
    """A cell as the library's family takes it."""
    match family.kind:
        case "histogram":
            bounds = (*map(str, family.buckets), "+Inf")
            return list(zip(bounds, accumulate(cell[:-1]), strict=True)), cell[-1]
        case "summary":
            return sum(cell[:-1]), cell[-1]
        case _:
            return (cell[0],)


def exposition(processes: Mapping[str, Numbers]) -> str:
    """The numbers of processes in Prometheus' text format, version 0.0.4."""
    return generate_latest(_Families(processes)).decode()


@final
class SharedMetrics:
    """The numbers of all processes that share a folder.

    Attributes: own: of this process.
    """

    def __init__(self, folder: Path | None, *, clock: Callable[[], float] = time.time) -> None:
        """Args: folder: None where there is none, and each process speaks for itself."""
        self.own = Metrics()
        self._folder = None if folder is None else folder / FOLDER
        self._clock = clock
        self._process = f"{socket.gethostname()}-{os.getpid()}"

    def write(self, numbers: Numbers) -> None:
        """Gives out this process's numbers, so that the others find all of them or those of before.

        Raises: OSError: when the disk is full or fails.
        """
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".{self._process}"
        draft.write_text(json.dumps({"written_at": self._clock(), "numbers": numbers}))
        draft.replace(self._folder / f"{self._process}.json")

    def read(self, numbers: Numbers) -> str:
        """This process's numbers, and those of all others; files of processes that are gone are removed."""
        processes = {self._process: numbers}
        for file in sorted(self._folder.glob("*.json")) if self._folder is not None else ():
            try:
                content = json.loads(file.read_bytes())
            except (OSError, ValueError):
                continue
            if content["written_at"] < self._clock() - STALE_S:
                file.unlink(missing_ok=True)
            elif file.stem != self._process:
                processes[file.stem] = content["numbers"]
        return exposition(processes)
