"""`tandem models`: the published models, and which of them serves."""

import json
from typing import TYPE_CHECKING

import tyro

from rec.cli.command import Answer
from rec.config import Config, HomePath
from rec.errors import ConfigError

if TYPE_CHECKING:
    from rec.registry import Registry


class ModelsOptions(Config):
    """Where the models are."""

    home: HomePath


class ShowOptions(ModelsOptions):
    """Which model: by default the one that serves."""

    version: tyro.conf.Positional[str | None] = None


class PromoteOptions(ModelsOptions):
    """Which model is to serve."""

    version: tyro.conf.Positional[str]


class UpdateOptions(ModelsOptions):
    """What changes of the catalogue of a published model, without training.

    `items` is a .csv or .parquet file of items to add or change: `item_id`, and any of `title` and the features. What
    is not a column stays as it is. `withdraw` names items that must not be shown any more, and `withdraw_file` is a
    text file with one id a line. The model is the one that serves, unless `version` names another, and what is made of
    it is to serve, unless `no_promote` says not yet.
    """

    items: str | None = None
    withdraw: tuple[str, ...] = ()
    withdraw_file: str | None = None
    version: str | None = None
    no_promote: bool = False


def run_list(options: ModelsOptions) -> Answer:
    """Prints and returns each model with its validation metrics, or what is wrong with it.

    Of a model that was trained on from another they are that one's, on what was new (`metrics_of` names it).
    """
    registry = _registry(options.home)
    models = []
    for entry in registry.entries():
        metrics = {} if entry.manifest is None else entry.manifest.metrics
        parent = None if entry.manifest is None else entry.manifest.parent
        judged = "validation" if parent is None else f"its parent {parent} on what was new"
        told = entry.problem or f"{judged}: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{'*' if entry.is_current else ' '} {entry.version}  {told}")
        models.append(
            {
                "version": entry.version,
                "current": entry.is_current,
                "metrics": metrics,
                "metrics_of": parent or entry.version,
                "problem": entry.problem,
            }
        )
    return {"current": registry.current(), "models": models}


def run_show(options: ShowOptions) -> Answer:
    """Prints and returns a model's manifest."""
    registry = _registry(options.home)
    version = options.version or registry.current()
    if version is None:
        raise ConfigError("no model is CURRENT in this home; train one, or name a version", field="version")
    manifest = registry.show(version).model_dump(mode="json")
    print(json.dumps(manifest, indent=2))
    return {"model": manifest}


def run_promote(options: PromoteOptions) -> Answer:
    """Makes a model the one that serves."""
    _registry(options.home).promote(options.version)
    print(f"CURRENT is {options.version}")
    return {"current": options.version}


def run_rollback(options: ModelsOptions) -> Answer:
    """Makes the model that served before serve again."""
    version = _registry(options.home).rollback()
    print(f"CURRENT is {version} again")
    return {"current": version}


def run_update(options: UpdateOptions) -> Answer:
    """Publishes a model with a changed catalogue."""
    from rec.catalogue import update_bundle
    from rec.data.id_lists import read_ids

    withdraw = list(options.withdraw)
    if options.withdraw_file is not None:
        withdraw += read_ids(options.withdraw_file)
    answer = update_bundle(
        options.home,
        items=options.items,
        withdraw=withdraw,
        version=options.version,
        promote=not options.no_promote,
    )
    told = ", ".join(f"{answer[name]} {name}" for name in ("added", "changed", "withdrawn", "returned"))
    print(f"{answer['version']}, an update of {answer['update_of']}: {told}; {answer['n_items']:,} items")
    for warning in answer["warnings"]:
        print(f"warning: {warning}")
    print(f"CURRENT is {answer['version']}" if answer["promoted"] else "it does not serve yet: promote it")
    return answer


def _registry(home: str) -> "Registry":
    from rec.registry import Registry
    from rec.storage import Home

    return Registry(Home(home))
