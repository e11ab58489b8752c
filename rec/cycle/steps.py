"""The steps of a cycle: read, train, estimate, gate, promote, report."""

from datetime import UTC, datetime
from typing import Any, Final

from rec.bundle import Manifest, trained_config
from rec.config import CycleConfig, SplitConfig, TrainConfig
from rec.cycle.journal import CYCLES, Journal, read_journal
from rec.cycle.judging import judged
from rec.cycle.report import write_cycle_report
from rec.cycle.run import WAITING, Cycle, Step
from rec.data.events import EventTables
from rec.data.logged import read_logged
from rec.errors import ConfigError, DataError, SupportError
from rec.features.as_of import DAY_MS
from rec.gate import Comparison, Health, Verdict, decide, guard, judge
from rec.parent import came_back
from rec.pipeline import train
from rec.preparation import NothingNewError
from rec.recommender import Recommender
from rec.registry import Registry
from rec.runs import has_run
from rec.storage import Home


def read_log(cycle: Cycle) -> dict[str, Any]:
    """Which versions of the tables there are, who is champion, and which requests judge: those at or after `since_ms`.

    Raises: ConfigError: without rewards, or for a challenger that has items which are withdrawn from the champion.
        BundleError: when no model serves yet. DataError: without a log.
    """
    config, home = cycle.config, cycle.home
    require_rewards(config)
    events = EventTables(home)
    versions = events.versions()
    if versions["requests"] is None or versions["impressions"] is None:
        raise DataError("the log is empty: name the home whose service logs", file=events.uri("requests"))
    champion = Recommender.from_bundle(Registry(home).open())
    until_ms = (config.now_ms or 0) - config.attribution_s * 1000
    since_ms = until_ms - int(config.held_out_days * DAY_MS)
    knows_ms = champion.snapshot.at_ms
    if config.challenger is not None:
        given = Recommender.from_bundle(Registry(home).open(config.challenger))
        for text in came_back(home, given.snapshot, version=given.version):
            raise ConfigError(text, field="challenger")
        since_ms = max(since_ms, knows_ms, given.snapshot.at_ms)
    times = events.read("requests", version=versions["requests"], columns=["timestamp"])["timestamp"].to_numpy()
    n_new = int(((times >= knows_ms) & (times < since_ms)).sum())
    n_held_out = int(((times >= since_ms) & (times <= until_ms)).sum())
    earlier = _earlier(home, cycle.journal.cycle)
    found = {
        "champion": champion.version,
        "versions": versions,
        "versions_before": earlier[-1].steps["read"]["versions"] if earlier else None,
        "champion_knows_until_ms": knows_ms,
        "since_ms": since_ms,
        "until_ms": until_ms,
        "n_new": n_new,
        "n_held_out": n_held_out,
    }
    if not n_held_out:
        return found | {WAITING: f"no request from {_day(since_ms)} to {_day(until_ms)} could judge a challenger yet"}
    if config.challenger is None and not n_new:
        return found | {
            WAITING: f"nothing new to learn from: {champion.version} knows what happened until {_day(knows_ms)}, and "
            f"from {_day(since_ms)} on requests are held out"
        }
    if same := [journal for journal in earlier if _asked_the_same(journal, cycle.config, found)]:
        return found | {
            WAITING: f"nothing new since cycle {same[-1].cycle}, which judged {same[-1].steps['train']['challenger']} "
            f"by the same tables: {same[-1].status}. Another --seed asks again, as a second try at the gate"
        }
    judged_by_them = [journal for journal in earlier if _judged_by(journal, since_ms)]
    return found | {"judged_before": sorted({journal.steps["train"]["challenger"] for journal in judged_by_them})}


def require_rewards(config: CycleConfig) -> None:
    """Raises: ConfigError: for a cycle that is not told what actions are worth."""
    if not config.rewards:
        raise ConfigError(
            "say what each action is worth, such as --rewards watched 1 skipped 0, or in --config", field="rewards"
        )


def train_challenger(cycle: Cycle) -> dict[str, Any]:
    """The challenger: CURRENT, trained on with what was known before the held-out requests; published, not promoted."""
    if cycle.config.challenger is not None:
        return {"challenger": cycle.config.challenger, "run": None}
    read, registry = cycle.found("read"), Registry(cycle.home)
    config = challenger_config(
        trained_config(registry.show(read["champion"])),
        cycle.config,
        path=cycle.home.location,
        parent=read["champion"],
        since_ms=read["since_ms"],
    )
    published = _published(registry, config)
    if published is not None:
        return {
            "challenger": published.version,
            "run": None,
            "valid": published.metrics,
            "warnings": published.warnings,
        }
    dataset = read_logged(config.data.model_copy(update={"path": cycle.location}), versions=read["versions"])
    # Of the same cycle and the same data it is the same run, which a restart goes on with.
    name = f"{cycle.journal.cycle}-{dataset.sha256[:8]}"
    resume = name if has_run(cycle.home, name) else None
    try:
        answer = train(dataset, config, cycle.location, resume=resume, name=name, promote=False)
    except NothingNewError as nothing:
        return {WAITING: nothing.message}
    told = {key: answer[key] for key in ("data", "valid", "warnings")}
    return {"challenger": answer["version"], "run": name, **told}


def challenger_config(
    champion: TrainConfig, config: CycleConfig, *, path: str, parent: str, since_ms: int
) -> TrainConfig:
    """How the challenger is trained: as the champion was, on from it or anew, on all that was known before a time.

    Both ways it has the champion's catalogue: what is withdrawn from that stays withdrawn.
    """
    data = {
        "name": "events",
        "path": path,
        "now_ms": since_ms - 1,
        "rewards": config.rewards,
        "attribution_s": config.attribution_s,
    }
    more: dict[str, Any] = {
        "data": champion.data.model_copy(update=data),
        "split": SplitConfig(kind="none"),
        "incremental": config.incremental.model_copy(
            update={"parent": None, "catalogue": parent} if config.anew else {"parent": parent, "catalogue": None}
        ),
    }
    if config.workers is not None:
        more["training"] = champion.training.model_copy(update={"workers": config.workers})
    return TrainConfig.model_validate(champion.model_copy(update=more).model_dump())


def estimate(cycle: Cycle) -> dict[str, Any]:
    """What champion and challenger are worth on the held-out requests, or why these cannot tell."""
    read, version = cycle.found("read"), cycle.found("train")["challenger"]
    champion, challenger = (Recommender.load(cycle.location, name) for name in (read["champion"], version))
    try:
        found = judged(
            cycle.home,
            challenger,
            champion,
            cycle.config,
            since_ms=max(read["since_ms"], challenger.snapshot.at_ms),
            versions=read["versions"],
        )
    except (DataError, SupportError) as error:
        return {"refusal": str(error)}
    return found.to_json()


def gate(cycle: Cycle) -> dict[str, Any]:
    """The verdict."""
    found, config = cycle.found("estimate"), cycle.config.gate
    if "refusal" in found:
        return Verdict.refused(found["refusal"]).to_json()
    estimates = judge(Comparison.from_json(found["comparison"]), found["n_impressions"], config)
    guards = guard(Health(**found["challenger"]), Health(**found["champion"]), config)
    return decide(estimates, guards).to_json()


def promote(cycle: Cycle) -> dict[str, Any]:
    """Lets the challenger serve where the gate says so, unless another than the champion serves by now.

    A cycle that was killed at this may have promoted. Where the champion serves when it goes on, somebody may have
    rolled back meanwhile, which is not undone.

    Raises: BundleError: when somebody promoted another meanwhile.
    """
    champion, challenger = cycle.found("read")["champion"], cycle.found("train")["challenger"]
    if not cycle.found("gate")["promote"]:
        return {"promoted": False, "current": champion}
    registry = Registry(cycle.home)
    if cycle.again and registry.current() == champion:
        why = (
            f"the cycle was killed while it promoted {challenger}, and {champion} serves, to which somebody may have "
            f"gone back: tandem models promote {challenger} lets it serve"
        )
        return {"promoted": False, "current": champion, "reasons": [why]}
    registry.promote(challenger, instead_of=champion)
    return {"promoted": True, "current": challenger}


def report(cycle: Cycle) -> dict[str, Any]:
    """Writes the report, as HTML and Markdown."""
    return write_cycle_report(cycle.home, cycle.journal)


STEPS: Final[dict[str, Step]] = {
    "read": read_log,
    "train": train_challenger,
    "estimate": estimate,
    "gate": gate,
    "promote": promote,
    "report": report,
}


def _earlier(home: Home, cycle: str) -> list[Journal]:
    """The cycles before this one that read the log."""
    journals = (read_journal(home, name) for name in home.children(CYCLES) if name < cycle)
    return [journal for journal in journals if journal is not None and "read" in journal.steps]


def _asked_the_same(journal: Journal, config: CycleConfig, found: dict[str, Any]) -> bool:
    """Whether a cycle has decided by the same options, champion, and requests to learn from and to judge by.

    Of the same versions of the tables, as time goes on, requests that are held out become such to learn from, and
    others become held out: where neither number changed, the same requests judge.
    """
    return (
        journal.status in ("promoted", "refused")
        and journal.config.asked() == config.asked()
        and all(journal.steps["read"][name] == found[name] for name in ("champion", "versions", "n_new", "n_held_out"))
    )


def _judged_by(journal: Journal, since_ms: int) -> bool:
    """Whether a cycle estimated something by requests of this time or later."""
    return "comparison" in journal.steps.get("estimate", {}) and journal.steps["read"]["until_ms"] >= since_ms


def _published(registry: Registry, config: TrainConfig) -> Manifest | None:
    """The model of this config, which holds the time of the cycle: a cut-off attempt may have published it."""
    wanted = config.model_dump(mode="json")
    published = (entry.manifest for entry in registry.entries())
    return next((manifest for manifest in published if manifest is not None and manifest.config == wanted), None)


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"
