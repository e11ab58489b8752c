"""What a cycle did and why, as HTML and Markdown."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from rec.cycle.journal import Journal
from rec.cycle.run import judged_before, reasons
from rec.gate import Comparison
from rec.metrics import format_estimate
from rec.ope import Estimate
from rec.ope.plot import estimates_figure
from rec.report import page, table
from rec.storage import Home

HTML_FILE: Final = "report.html"
MARKDOWN_FILE: Final = "report.md"


class _Table(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_cycle_report(home: Home, journal: Journal) -> dict[str, Any]:
    """Writes both files beside the journal.

    Returns: where they are.
    """
    outcome, tables = _outcome(journal), _tables(journal)
    title = f"Cycle {journal.cycle}"
    parts = [f"<h1>{title}</h1><p>{html.escape(outcome)}</p>"]
    parts += [f"<h2>{each.title}</h2>{table(each.header, each.rows)}" for each in tables]
    if "comparison" in (found := journal.steps["estimate"]):
        parts += _figures(Comparison.from_json(found["comparison"]), found["logged_value"])
    text = "\n\n".join([f"# {title}", outcome, *map(_markdown, tables)]) + "\n"
    home.write(journal.file(HTML_FILE), page(title, parts).encode())
    home.write(journal.file(MARKDOWN_FILE), text.encode())
    return {"html": home.show(journal.file(HTML_FILE)), "markdown": home.show(journal.file(MARKDOWN_FILE))}


def _outcome(journal: Journal) -> str:
    champion, challenger = journal.steps["read"]["champion"], journal.steps["train"]["challenger"]
    if journal.steps["promote"]["promoted"]:
        return f"Promoted {challenger}; until now {champion} served."
    return f"{champion} goes on serving. {challenger} was not promoted: " + "; ".join(reasons(journal))


def _tables(journal: Journal) -> list[_Table]:
    read, found, verdict = (journal.steps[name] for name in ("read", "estimate", "gate"))
    before = read["versions_before"] or {}
    checks = [
        (check["name"], _number(check["found"]), f"{check['relation']} {check['required']:.4g}", _mark(check["passed"]))
        for check in verdict["checks"]
    ]
    tables = [_Table("Gate", ("condition", "found", "required", ""), checks)] if checks else []
    if "comparison" in found:
        tables += _estimates(found)
    period = [
        ("champion", read["champion"]),
        ("challenger", journal.steps["train"]["challenger"]),
        ("the champion knows what was before", _time(read["champion_knows_until_ms"])),
        ("held out from", _time(read["since_ms"])),
        ("held out until", _time(read["until_ms"])),
        ("other challengers that some of these requests judged before", str(judged_before(journal))),
        *((f"version of {table}", _since(version, before.get(table))) for table, version in read["versions"].items()),
    ]
    tables.append(_Table("Log", ("", ""), period))
    if warnings := journal.steps["train"].get("warnings"):
        tables.append(_Table("Doubts about the training", ("",), [(text,) for text in warnings]))
    seconds = [(name, f"{step['seconds']:.1f}") for name, step in journal.steps.items()]
    return [*tables, _Table("Steps", ("step", "seconds"), seconds)]


def _estimates(found: dict[str, Any]) -> list[_Table]:
    rows = []
    for name, each in found["comparison"].items():
        around = each["interval"]
        interval = "" if around is None else f"{around['low']:.4f} to {around['high']:.4f}"
        rows.append((name, format_estimate(each), interval, f"{each['ess']:,.0f}"))
    what = f"Reward of a request, {found['n_requests']:,} requests; as logged {found['logged_value']:.4f}"
    healths = [
        (name, f"{each['coverage']:.3f}", f"{each['latency_ms']:.2f}", _number(each["calibration_error"]))
        for name, each in ((side, found[side]) for side in ("challenger", "champion"))
    ]
    tables = [
        _Table(what, ("", "value", "95% interval", "effective sample size"), rows),
        _Table("Guards", ("", "coverage", "latency, ms", "calibration error"), healths),
    ]
    notes = [(note,) for note in found["warnings"]]
    if found["reproduced"] is not None:
        notes.append((f"ranked anew, the champion draws {found['reproduced']:.1%} of its logged slates as it did",))
    notes += [(f"{count:,} {reason} left out",) for reason, count in found["dropped"].items()]
    return [*tables, *([_Table("Notes", ("",), notes)] if notes else [])]


def _figures(comparison: Comparison, logged_value: float) -> list[str]:
    values = {"challenger": comparison.challenger, "champion": comparison.champion}
    differences: dict[str, Estimate] = {"challenger - champion": comparison.difference}
    return [
        estimates_figure(values, "Reward of a request", reference=logged_value),
        estimates_figure(differences, "Gain of a request, paired"),
    ]


def _markdown(table: _Table) -> str:
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return f"## {table.title}\n\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _mark(passed: bool) -> str:
    return "holds" if passed else "fails"


def _since(version: int | None, before: int | None) -> str:
    return str(version) if before is None else f"{version}, in the cycle before {before}"


def _time(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
