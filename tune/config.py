"""The configuration of a search; it imports neither torch nor Ray."""

from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import Field, PositiveInt, model_validator

from rec.config import Config, HomePath, Seed

SpaceName = Literal["capping", "alpha", "temperature", "slates", "towers", "learning", "dqn", "drr"]
Judge = Literal["retriever", "both", "policy"]


class ParameterConfig(Config):
    """What values a field is drawn from: one of `choices`, or a number from `low` to `high`.

    A number is a whole one where both ends are. With `log` it is its logarithm that is drawn evenly.
    """

    choices: tuple[Any, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError(f"low, high and log are of numbers, and choices are given: {self.choices}")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"choices are required, or low below high; found low {self.low} and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 to be drawn by its logarithm; found {self.low}")
        return self


class TuneConfig(Config):
    """A search for better settings than those of `base`, a file that `tandem train --config` takes.

    `spaces` names what is searched: `capping` (cap and floor of importance weights), `alpha` and `slates` (of the
    two-stage loss), `temperature`, `towers` and `learning` of the retriever; or `dqn` or `drr`, of an agent, where
    `base` is a file for `tandem rl train`. `parameters` adds fields by name, or draws them from other values.

    A trial trains on the first part of the training period, and its last part judges it; nothing of the test is read.
    `judge` says what is judged: the `retriever` alone, its candidates by what was liked (or, where it learns from a
    log of slates, its policy by a lower bound of what it earns); `both` stages by what was liked; or the `policy` of
    both stages, by a lower bound of what it would have earned in the log. Agents play `sessions` sessions, others than
    those of `tandem rl evaluate`.

    The first trial is `base` itself, then come `starts`; a start may leave out what is as in `base`. `sampler` proposes
    the others. With `scheduler` asha only one of `reduction_factor` trials goes on after `grace_epochs` epochs, of
    these again one after as many times more, and so on; `judge` retriever alone can be stopped so. Trials run side by
    side as far as there are CPUs, a CPU for each and for each of its workers, and at most `concurrent`. In a cluster
    that grows, `cpus` says how many it may have; by default those count that it has when the search begins.
    """

    spaces: tuple[SpaceName, ...] = ()
    parameters: Annotated[dict[str, ParameterConfig], tyro.conf.Suppress] = Field(default_factory=dict)
    base: str | None = None
    starts: Annotated[tuple[dict[str, Any], ...], tyro.conf.Suppress] = ()
    trials: PositiveInt = 20
    sampler: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["fifo", "asha"] = "fifo"
    grace_epochs: PositiveInt = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    concurrent: PositiveInt | None = None
    cpus: PositiveInt | None = None
    judge: Judge = "retriever"
    sessions: PositiveInt = 2000
    seed: Seed = 0


class TuneOptions(TuneConfig):
    """Where the search goes: HOME/runs/NAME. `resume` names one there that was cut off, whose options are taken."""

    home: HomePath
    resume: str | None = None
