"""All commands by name, and the small ones themselves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro
from pydantic import Field, NonNegativeInt, PositiveInt

from rec.cli.ab import AbOptions, run_ab
from rec.cli.agents import (
    evaluate_agent_options,
    evaluate_drr_options,
    run_evaluate_agent,
    run_evaluate_drr,
    run_train_dqn,
    run_train_drr,
    train_dqn_options,
    train_drr_options,
)
from rec.cli.command import Answer, Command
from rec.cli.cycle import CycleOptions, run_cycle_command
from rec.cli.data import GenerateOptions, ImportOptions, ValidateOptions, run_generate, run_import, run_validate
from rec.cli.evaluation import EvaluateOptions, run_evaluate
from rec.cli.events import CompactOptions, ExpireOptions, ForgetOptions, run_compact, run_expire, run_forget
from rec.cli.keys import (
    CreateKeyOptions,
    KeysOptions,
    RevokeKeyOptions,
    run_create_key,
    run_list_keys,
    run_revoke_key,
)
from rec.cli.models import (
    ModelsOptions,
    PromoteOptions,
    ShowOptions,
    UpdateOptions,
    run_list,
    run_promote,
    run_rollback,
    run_show,
    run_update,
)
from rec.cli.recommendations import CandidatesOptions, RecommendOptions, run_candidates, run_recommend
from rec.cli.training import TrainOptions, run_train
from rec.cli.tune import run_tune, tune_options
from rec.config import Config, HomePath, OpeConfig, Seed

if TYPE_CHECKING:
    from rec.cli.simulate import SimulateOptions
    from serve.config import ServeConfig


class DemoOptions(Config):
    """Where models, runs and the report go, how many sessions are served, on how many workers it trains.

    In the loop at the end there are `n_visits` visits a day.
    """

    home: Annotated[str, Field(default="./.tandem/demo")]
    n_sessions: PositiveInt = 500
    n_visits: PositiveInt = 2500
    workers: NonNegativeInt = 2
    seed: Seed = 0


class OpeOptions(OpeConfig):
    """Which log and policy; `home` is where events and models are."""

    home: HomePath


class ReportOptions(Config):
    """The folder of a run: `run_dir` in the JSON of `tandem train`, or one of those below HOME/runs."""

    run: tyro.conf.Positional[str]


def _doctor(options: ModelsOptions) -> Answer:
    from rec.cli.doctor import diagnose, to_json

    checks = diagnose(options.home)
    for check in checks:
        print(f"{check.status:<8} {check.name:<14} {check.found}" + (f"\n{'':<24}{check.todo}" if check.todo else ""))
    return to_json(checks)


def _demo(options: DemoOptions) -> Answer:
    from rec.cli.demo import run_demo

    return run_demo(
        options.home,
        n_sessions=options.n_sessions,
        n_visits=options.n_visits,
        workers=options.workers,
        seed=options.seed,
    )


def _serve_options() -> type[Config]:
    from serve.config import ServeConfig

    return ServeConfig


def _serve(options: "ServeConfig") -> Answer:
    from serve.app import run

    run(options)
    return {}


def _simulate_options() -> type[Config]:
    from rec.cli.simulate import SimulateOptions

    return SimulateOptions


def _simulate(options: "SimulateOptions") -> Answer:
    from rec.cli.simulate import run_simulate

    return run_simulate(options)


def _ope(options: OpeOptions) -> Answer:
    from rec.cli.ope import run_ope

    return run_ope(options, options.home)


def _report(options: ReportOptions) -> Answer:
    from rec.report import write_report

    report = write_report(Path(options.run))
    print(f"wrote {report}")
    return {"report": str(report)}


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command("see all of it work on a generated world, in a few minutes", lambda: DemoOptions, _demo),
    "doctor": Command("say what stands in the way on this machine, and what to do", lambda: ModelsOptions, _doctor),
    "data validate": Command("check data and say what is in them", lambda: ValidateOptions, run_validate),
    "data import": Command(
        "read data of any known kind and write them as Parquet or RecBole files", lambda: ImportOptions, run_import
    ),
    "data generate": Command(
        "write a generated world of short videos as Parquet, or the log of a service of them",
        lambda: GenerateOptions,
        run_generate,
    ),
    "train": Command("train retriever and ranker, and publish them as a bundle", lambda: TrainOptions, run_train),
    "tune": Command("search for settings that do better on validation", tune_options, run_tune),
    "evaluate": Command("measure a bundle beside baselines on held-out data", lambda: EvaluateOptions, run_evaluate),
    "ope": Command("estimate what a policy would earn, from the log of another", lambda: OpeOptions, _ope),
    "cycle": Command(
        "train on from the log, and let the challenger serve if held-out days say it earns more",
        lambda: CycleOptions,
        run_cycle_command,
    ),
    "recommend": Command("recommend items to one user", lambda: RecommendOptions, run_recommend),
    "candidates": Command(
        "find candidates for many users and write them as a table", lambda: CandidatesOptions, run_candidates
    ),
    "serve": Command("serve a bundle over HTTP until Ctrl-C", _serve_options, _serve),
    "simulate": Command("let people of a generated world use a service that runs", _simulate_options, _simulate),
    "ab": Command("compare the arms of an experiment by the log of the service", lambda: AbOptions, run_ab),
    "events compact": Command("make few files of a log's many small ones", lambda: CompactOptions, run_compact),
    "events expire": Command("remove old requests from a log", lambda: ExpireOptions, run_expire),
    "events forget": Command("remove a user's requests from a log", lambda: ForgetOptions, run_forget),
    "keys create": Command("make an API key, shown once", lambda: CreateKeyOptions, run_create_key),
    "keys list": Command("list the API keys", lambda: KeysOptions, run_list_keys),
    "keys revoke": Command("end an API key", lambda: RevokeKeyOptions, run_revoke_key),
    "models list": Command("list the published models", lambda: ModelsOptions, run_list),
    "models show": Command("show what one model is made of", lambda: ShowOptions, run_show),
    "models promote": Command("make a model the one that serves", lambda: PromoteOptions, run_promote),
    "models update": Command(
        "add, change and withdraw items of a published model, without training", lambda: UpdateOptions, run_update
    ),
    "models rollback": Command("go back to the model that served before", lambda: ModelsOptions, run_rollback),
    "rl train dqn": Command("train an agent that chooses the next item of a session", train_dqn_options, run_train_dqn),
    "rl train drr": Command("train an agent that ranks items by a vector of its own", train_drr_options, run_train_drr),
    "rl evaluate drr": Command(
        "rerank logged sessions, and play simulated ones, beside policies to beat",
        evaluate_drr_options,
        run_evaluate_drr,
    ),
    "rl evaluate": Command(
        "play sessions with an agent beside policies it has to beat", evaluate_agent_options, run_evaluate_agent
    ),
    "report": Command("render a run's HTML report again", lambda: ReportOptions, _report),
}
