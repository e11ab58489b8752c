"""The commands: options of each as a typed config, and a function that does it and returns its JSON."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt

from rec.cli.events import CompactOptions, ExpireOptions, ForgetOptions, run_compact, run_expire, run_forget
from rec.config import BatchConfig, Config, DataConfig, EvaluationConfig, HomePath, OpeConfig, Seed, TrainConfig
from rec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rec.data.dataset import Dataset
    from rec.registry import Registry
    from rl.cli import EvaluateAgentOptions, TrainDQNOptions
    from rl.instatok import InstaTok
    from rl.rating_cli import EvaluateDRROptions, TrainDRROptions
    from serve.config import ServeConfig

Answer = Mapping[str, Any]
Flat = tyro.conf.arg(name="")


@dataclass(frozen=True, slots=True)
class Command:
    """What a command is for, which options it takes, and what does it."""

    summary: str
    options: Callable[[], type[Config]]
    run: Callable[[Any], Answer]


class TrainOptions(TrainConfig):
    """Everything about one training run; `home` is where models, logs and runs go: a folder or an object-store URL.

    `resume` names a run of that home that was cut off; give it the same config.
    """

    home: HomePath
    resume: str | None = None


class EvaluateOptions(EvaluationConfig):
    """Which model to evaluate, beside which baselines; the data are those it was trained on unless given."""

    home: HomePath
    version: str | None = None
    path: str | None = None


class RecommendOptions(Config):
    """Whom to recommend how many items."""

    user_id: str
    n: PositiveInt = 10
    home: HomePath
    version: str | None = None


class CandidatesOptions(BatchConfig):
    """For whom candidates are found, and where their table goes: a folder or an object-store URL.

    By default for all users of the bundle; `user_ids` names some, and `users_file` is a text file with one id a line.
    """

    out: str
    user_ids: tuple[str, ...] = ()
    users_file: str | None = None
    home: HomePath
    version: str | None = None


class ValidateOptions(Config):
    """Which data to check."""

    data: Annotated[DataConfig, Flat] = DataConfig()


class ImportOptions(Config):
    """Which data to read, and the folder and format to write them to."""

    out: str
    format: Literal["parquet", "recbole"] = "parquet"
    data: Annotated[DataConfig, Flat] = DataConfig()


class GenerateOptions(Config):
    """A world of short videos and its viewers.

    `kind` interactions: what viewers did with videos they came across, as Parquet. `kind` events: a service's log of
    slates with their propensities, by a policy that prefers some categories for everybody, below the home `out`.
    """

    out: str
    kind: Literal["interactions", "events"] = "interactions"
    n_users: PositiveInt = 200
    n_videos: PositiveInt = 3000
    n_sessions: PositiveInt = 2000
    seed: Seed = 0


class ModelsOptions(Config):
    """Where the models are."""

    home: HomePath


class ShowOptions(ModelsOptions):
    """Which model: by default the one that serves."""

    version: str | None = None


class PromoteOptions(ModelsOptions):
    """Which model is to serve."""

    version: str


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


class DemoOptions(Config):
    """Where models, runs and the report go, how many sessions are served, on how many workers it trains."""

    home: Annotated[str, Field(default="./.tandem/demo")]
    n_sessions: PositiveInt = 500
    workers: NonNegativeInt = 2
    seed: Seed = 0


class OpeOptions(OpeConfig):
    """Which log and policy; `home` is where events and models are."""

    home: HomePath


class ReportOptions(Config):
    """The folder of a run: `run_dir` in the JSON of `tandem train`, or one of those below HOME/runs."""

    run: tyro.conf.Positional[str]


def read(data: DataConfig) -> "Dataset":
    """The data set a config names; generated worlds come from the simulators, all others from files."""
    if data.name == "instatok":
        print("the data are a generated world; --data and --path take your own", file=sys.stderr)
        from rl.instatok import generate_dataset

        return generate_dataset(data)
    from rec.data.source import read_dataset

    return read_dataset(data)


def _train(options: TrainOptions) -> Answer:
    from rec.pipeline import train
    from rec.runs import recorded_config
    from rec.storage import Home

    config = TrainConfig.model_validate(options.model_dump(exclude={"home", "resume"}))
    # The bundle remembers where its data were, and as of when: that has to mean the same from any folder, at any time.
    meant: dict[str, Any] = {}
    if config.data.path is not None:
        meant["path"] = str(Path(config.data.path).resolve())
    if config.data.name == "events" and config.data.now_ms is None:
        begun = recorded_config(Home(options.home), options.resume).data.now_ms if options.resume is not None else None
        meant["now_ms"] = int(time.time() * 1000) if begun is None else begun
    config = config.model_copy(update={"data": config.data.model_copy(update=meant)})
    return train(read(config.data), config, options.home, resume=options.resume)


def _evaluate(options: EvaluateOptions) -> Answer:
    from rec.bundle_evaluation import evaluate_bundle, trained_on

    data = trained_on(options.home, options.version)
    if options.path is not None:
        data = data.model_copy(update={"path": options.path})
    config = EvaluationConfig.model_validate(options.model_dump(exclude={"home", "version", "path"}))
    answer = evaluate_bundle(read(data), config, options.home, options.version)
    _print_metrics(answer)
    return answer


def _print_exposure(exposure: Answer) -> None:
    print(f"exposure of {exposure['n_groups']} values of {exposure['column']}, {exposure['k']} items a list:")
    for name, shares in exposure["models"].items():
        largest = "  ".join(f"{group} {share:.1%}" for group, share in list(shares["largest"].items())[:3])
        print(f"{name:<18} gini {shares['gini']:.3f}  shown {shares['shown']:.0%}  largest {largest}")


def _print_metrics(answer: Answer) -> None:
    from rec.metrics import format_difference, format_estimate
    from rec.source_report import source_table

    for model, metrics in answer["models"].items():
        told = "  ".join(f"{name} {format_estimate(metric)}" for name, metric in metrics.items())
        print(f"{model:<18} {told}")
    for pair in answer["paired"]:
        print(f"{pair['a']} - {pair['b']}: {pair['metric']} {format_difference(pair)}")
    if (found := answer.get("calibration")) is not None:
        print(
            f"calibration of the ranker: expected error {found['expected_error']:.4f} ({found['by_chance']:.4f} by "
            f"chance), log loss {found['log_loss']:.4f}, {found['n']:,} answers"
        )
    if "exposure" in answer:
        _print_exposure(answer["exposure"])
    if "sources" in answer:
        print("\n".join(source_table(answer["sources"])))


def _recommend(options: RecommendOptions) -> Answer:
    import rec

    answer = rec.load(options.home, options.version).recommend(options.user_id, options.n)
    known = "" if answer.user_known else " (never seen; answered from what is popular)"
    print(f"user {options.user_id}{known}, model {answer.version}")
    print(f"{'':>3}  {'score':>8}  {'item':>8}  title")
    for item in answer.items:
        print(f"{item.position + 1:>3}  {item.score:8.3f}  {item.item_id:>8}  {item.title or ''}")
    return answer.to_json()


def _candidates(options: CandidatesOptions) -> Answer:
    from rec.batch import write_candidates

    if options.user_ids and options.users_file is not None:
        raise ConfigError("names users, and so does user_ids: give one of them", field="users_file")
    listed = options.user_ids or None
    if options.users_file is not None:
        listed = Path(options.users_file).read_text(encoding="utf-8").splitlines()
    config = BatchConfig.model_validate(options.model_dump(include=set(BatchConfig.model_fields)))
    answer = write_candidates(
        config,
        options.out,
        home=options.home,
        version=options.version,
        user_ids=listed,
        listed_in=options.users_file,
    )
    print(
        f"{answer['n_rows']:,} candidates of {answer['n_users']:,} users in {answer['out']}, model {answer['version']}"
    )
    return answer


def _validate(options: ValidateOptions) -> Answer:
    from rec.data.source import summary

    answer = summary(read(options.data))
    for name, value in answer.items():
        print(f"{name:<16} {value}")
    return answer


def _import(options: ImportOptions) -> Answer:
    from rec.data.recbole import write_recbole
    from rec.data.source import summary
    from rec.data.tabular import write_parquet

    dataset = read(options.data)
    write = {"parquet": write_parquet, "recbole": write_recbole}[options.format]
    write(dataset, options.out)
    print(f"wrote {options.out}")
    return {"out": options.out, **summary(dataset)}


def _generate(options: GenerateOptions) -> Answer:
    from rec.data.source import summary
    from rec.data.tabular import write_parquet
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok

    world = InstaTok(InstaTokConfig(n_users=options.n_users, n_videos=options.n_videos, seed=options.seed))
    if options.kind == "events":
        return _generate_log(world, options)
    dataset = world.dataset(n_sessions=options.n_sessions)
    write_parquet(dataset, options.out)
    print(f"wrote {options.out}")
    return {"out": options.out, **summary(dataset)}


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
    write_side_tables(world.dataset(n_sessions=1), Path(options.out) / FOLDER)
    log.append_to(events)
    print(f"wrote {options.out}/{FOLDER}")
    return {"out": options.out, **summary(read(DataConfig(name="events", path=options.out)))}


def _models_list(options: ModelsOptions) -> Answer:
    registry = _registry(options.home)
    models = []
    for entry in registry.entries():
        metrics = {} if entry.manifest is None else entry.manifest.metrics
        told = entry.problem or "validation: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{'*' if entry.is_current else ' '} {entry.version}  {told}")
        models.append(
            {
                "version": entry.version,
                "current": entry.is_current,
                "metrics": metrics,
                "problem": entry.problem,
            }
        )
    return {"current": registry.current(), "models": models}


def _models_show(options: ShowOptions) -> Answer:
    registry = _registry(options.home)
    version = options.version or registry.current()
    if version is None:
        raise ConfigError("no model is CURRENT in this home; train one, or name a --version", field="version")
    manifest = registry.show(version).model_dump(mode="json")
    print(json.dumps(manifest, indent=2))
    return {"model": manifest}


def _models_promote(options: PromoteOptions) -> Answer:
    _registry(options.home).promote(options.version)
    print(f"CURRENT is {options.version}")
    return {"current": options.version}


def _models_rollback(options: ModelsOptions) -> Answer:
    version = _registry(options.home).rollback()
    print(f"CURRENT is {version} again")
    return {"current": version}


def _models_update(options: UpdateOptions) -> Answer:
    from rec.catalogue import update_bundle

    withdraw = list(options.withdraw)
    if options.withdraw_file is not None:
        withdraw += Path(options.withdraw_file).read_text(encoding="utf-8").splitlines()
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


def _doctor(options: ModelsOptions) -> Answer:
    from rec.cli.doctor import diagnose, to_json

    checks = diagnose(options.home)
    for check in checks:
        print(f"{check.status:<8} {check.name:<14} {check.found}" + (f"\n{'':<24}{check.todo}" if check.todo else ""))
    return to_json(checks)


def _demo(options: DemoOptions) -> Answer:
    from rec.cli.demo import run_demo

    return run_demo(options.home, n_sessions=options.n_sessions, workers=options.workers, seed=options.seed)


def _serve_options() -> type[Config]:
    from serve.config import ServeConfig

    return ServeConfig


def _serve(options: "ServeConfig") -> Answer:
    from serve.app import run

    run(options)
    return {}


def _ope(options: OpeOptions) -> Answer:
    from rec.cli.ope import run_ope

    return run_ope(options, options.home)


def _report(options: ReportOptions) -> Answer:
    from rec.report import write_report

    report = write_report(Path(options.run))
    print(f"wrote {report}")
    return {"report": str(report)}


def _dqn_options() -> type[Config]:
    from rl.cli import TrainDQNOptions

    return TrainDQNOptions


def _rl_train_dqn(options: "TrainDQNOptions") -> Answer:
    from rl.cli import train_dqn

    return train_dqn(options)


def _agent_options() -> type[Config]:
    from rl.cli import EvaluateAgentOptions

    return EvaluateAgentOptions


def _rl_evaluate(options: "EvaluateAgentOptions") -> Answer:
    from rl.cli import evaluate_agent

    return evaluate_agent(options)


def _drr_options() -> type[Config]:
    from rl.rating_cli import TrainDRROptions

    return TrainDRROptions


def _rl_train_drr(options: "TrainDRROptions") -> Answer:
    from rl.rating_cli import train_drr

    return train_drr(options)


def _evaluate_drr_options() -> type[Config]:
    from rl.rating_cli import EvaluateDRROptions

    return EvaluateDRROptions


def _rl_evaluate_drr(options: "EvaluateDRROptions") -> Answer:
    from rl.rating_cli import evaluate_drr

    return evaluate_drr(options)


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command("see all of it work on a generated world, in a few minutes", lambda: DemoOptions, _demo),
    "doctor": Command("say what stands in the way on this machine, and what to do", lambda: ModelsOptions, _doctor),
    "data validate": Command("check data and say what is in them", lambda: ValidateOptions, _validate),
    "data import": Command(
        "read data of any known kind and write them as Parquet or RecBole files", lambda: ImportOptions, _import
    ),
    "data generate": Command(
        "write a generated world of short videos as Parquet, or the log of a service of them",
        lambda: GenerateOptions,
        _generate,
    ),
    "train": Command("train retriever and ranker, and publish them as a bundle", lambda: TrainOptions, _train),
    "evaluate": Command("measure a bundle beside baselines on held-out data", lambda: EvaluateOptions, _evaluate),
    "ope": Command("estimate what a policy would earn, from the log of another", lambda: OpeOptions, _ope),
    "recommend": Command("recommend items to one user", lambda: RecommendOptions, _recommend),
    "candidates": Command(
        "find candidates for many users and write them as a table", lambda: CandidatesOptions, _candidates
    ),
    "serve": Command("serve a bundle over HTTP until Ctrl-C", _serve_options, _serve),
    "events compact": Command("make few files of a log's many small ones", lambda: CompactOptions, run_compact),
    "events expire": Command("remove old requests from a log", lambda: ExpireOptions, run_expire),
    "events forget": Command("remove a user's requests from a log", lambda: ForgetOptions, run_forget),
    "models list": Command("list the published models", lambda: ModelsOptions, _models_list),
    "models show": Command("show what one model is made of", lambda: ShowOptions, _models_show),
    "models promote": Command("make a model the one that serves", lambda: PromoteOptions, _models_promote),
    "models update": Command(
        "add, change and withdraw items of a published model, without training", lambda: UpdateOptions, _models_update
    ),
    "models rollback": Command("go back to the model that served before", lambda: ModelsOptions, _models_rollback),
    "rl train dqn": Command("train an agent that chooses the next item of a session", _dqn_options, _rl_train_dqn),
    "rl train drr": Command("train an agent that ranks items by a vector of its own", _drr_options, _rl_train_drr),
    "rl evaluate drr": Command(
        "rerank logged sessions, and play simulated ones, beside policies to beat",
        _evaluate_drr_options,
        _rl_evaluate_drr,
    ),
    "rl evaluate": Command("play sessions with an agent beside policies it has to beat", _agent_options, _rl_evaluate),
    "report": Command("render a run's HTML report again", lambda: ReportOptions, _report),
}
