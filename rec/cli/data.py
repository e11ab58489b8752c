"""`tandem data`: checking, converting and generating data; and the reader that all commands share."""

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import Field, PositiveInt

from rec.cli.command import Answer
from rec.config import Config, DataConfig, Seed
from rec.errors import DataError

if TYPE_CHECKING:
    from rec.data.dataset import Dataset
    from rl.instatok import InstaTok

_Flat = tyro.conf.arg(name="")


class ValidateOptions(Config):
    """Which data to check."""

    data: Annotated[DataConfig, _Flat] = DataConfig()


class ImportOptions(Config):
    """Which data to read, and the folder, or object-store URL, and format to write them to."""

    out: Annotated[str, Field(min_length=1)]
    format: Literal["parquet", "recbole"] = "parquet"
    data: Annotated[DataConfig, _Flat] = DataConfig()


class GenerateOptions(Config):
    """A world of short videos and its viewers.

    `kind` interactions: what viewers did with videos they came across, as Parquet. `kind` events: a service's log of
    slates with their propensities, by a policy that prefers some categories for everybody, below the home `out`,
    which may be in an object store.
    """

    out: Annotated[str, Field(min_length=1)]
    kind: Literal["interactions", "events"] = "interactions"
    n_users: PositiveInt = 200
    n_videos: PositiveInt = 3000
    n_sessions: PositiveInt = 2000
    seed: Seed = 0


def read(data: DataConfig) -> "Dataset":
    """The data set a config names; generated worlds come from the simulators, all others from files."""
    if data.name == "instatok":
        print("the data are a generated world; --data and --path take your own", file=sys.stderr)
        from rl.instatok import generate_dataset

        return generate_dataset(data)
    from rec.data.source import read_dataset

    return read_dataset(data)


def run_validate(options: ValidateOptions) -> Answer:
    """Prints and returns what is in the data, and what of it is doubtful."""
    from rec.data.source import doubts, summary

    dataset = read(options.data)
    answer, warnings = summary(dataset), doubts(dataset, options.data)
    for name, value in answer.items():
        print(f"{name:<16} {value}")
    for warning in warnings:
        print(f"warning: {warning}")
    return {**answer, "warnings": warnings}


def run_import(options: ImportOptions) -> Answer:
    """Writes the data in another format."""
    from rec.data.recbole import write_recbole
    from rec.data.source import summary
    from rec.data.tabular import write_parquet

    dataset = read(options.data)
    write = {"parquet": write_parquet, "recbole": write_recbole}[options.format]
    write(dataset, options.out)
    return {"out": _written(options.out), **summary(dataset)}


def run_generate(options: GenerateOptions) -> Answer:
    """Writes what a generated world holds, or the log of a service of it."""
    from rec.data.source import summary
    from rec.data.tabular import write_parquet
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok

    world = InstaTok(InstaTokConfig(n_users=options.n_users, n_videos=options.n_videos, seed=options.seed))
    if options.kind == "events":
        return _generate_log(world, options)
    dataset = world.dataset(n_sessions=options.n_sessions)
    write_parquet(dataset, options.out)
    return {"out": _written(options.out), **summary(dataset)}


def _written(out: str, below: str = "") -> str:
    """Says where something was written, without the credentials of a URL."""
    from rec.storage import Home

    home = Home(out)
    print(f"wrote {home.show(below) if below else home.location}")
    return home.location


def _generate_log(world: "InstaTok", options: GenerateOptions) -> Answer:
    import numpy as np

    from rec.data.events import FOLDER, open_events
    from rec.data.source import summary
    from rec.data.tabular import write_side_tables
    from rl.instatok.slate_log import by_category, log_slates
    from rl.instatok.world import CATEGORIES

    events = open_events(options.out)
    if any(version is not None for version in events.versions().values()):
        raise DataError("there is a log already; name another folder", file=events.uri("requests"))
    rng = np.random.default_rng(options.seed)
    policy = by_category(rng.normal(size=len(CATEGORIES)), min(50, world.n_items))
    log = log_slates(world, policy, n_sessions=options.n_sessions, k=5, epsilon=0.1, temperature=1.0, rng=rng)
    write_side_tables(world.dataset(n_sessions=1), options.out, below=f"{FOLDER}/")
    log.append_to(events)
    return {"out": _written(options.out, FOLDER), **summary(read(DataConfig(name="events", path=options.out)))}
