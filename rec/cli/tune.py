"""`tandem tune`: a search for better settings."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rec.cli.data import read
from rec.cli.training import settled
from rec.config import Config, TrainConfig

if TYPE_CHECKING:
    from tune.config import TuneOptions


def tune_options() -> type[Config]:
    """Of the command."""
    from tune.config import TuneOptions

    return TuneOptions


def run_tune(options: "TuneOptions") -> Mapping[str, Any]:
    """Searches, or goes on with a search; prints the best trials and returns where everything is."""
    from rec.config import load_config
    from rec.metrics import format_estimate
    from rec.runs import new_run_name, run_folder
    from rec.storage import Home
    from tune.config import TuneConfig
    from tune.report import write_report
    from tune.search import Search
    from tune.spaces import CONFIGS, Space

    began = time.perf_counter()
    home = Home(options.home)
    if options.resume is not None:
        search = Search.recorded(home, options.resume)
    else:
        config = TuneConfig.model_validate(options.model_dump(exclude={"home", "resume"}))
        kind = CONFIGS[Space.of(config).learner]
        base = kind() if config.base is None else load_config(kind, config.base)
        if isinstance(base, TrainConfig):
            base = settled(base)
        search = Search.of(run_folder(home, new_run_name()), config, base, home)
    dataset = read(search.base.data) if isinstance(search.base, TrainConfig) else None
    if options.resume is None:
        search.record(dataset)
    else:
        search.require_same(dataset)
    trials = search.run(dataset)
    answer = write_report(search, trials, options.home)
    for trial in trials[:5]:
        if trial.measured is not None:
            values = "  ".join(f"{name} {value}" for name, value in trial.values.items())
            print(f"{trial.measured.metric} {format_estimate(asdict(trial.measured))}  {values}")
    counts = ", ".join(f"{count} {state}" for state, count in answer["trials"].items())
    print(f"{counts}; the best config is {Path(answer['config'])}, and the report {Path(answer['report'])}")
    print(f"use it: {answer['use']}")
    print(f"again:  {answer['again']}")
    return {**answer, "seconds": round(time.perf_counter() - began, 1)}
