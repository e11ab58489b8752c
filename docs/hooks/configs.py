"""The reference of configs, made from the models themselves whenever the documentation is built.

MkDocs calls `on_files` (`hooks` in mkdocs.yml), which adds the page configs.md to those of the folder.
"""

import argparse
import inspect
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, get_args

import tyro
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from rec.cli import PARSING
from rec.cli.commands import COMMANDS
from rec.config import DEFAULT_HOME, HOME_VARIABLE, Config, default_home

PAGE: Final = "configs.md"
BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
NAMES: Final = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
# What stands in a table for these defaults.
_SHOWN: Final = {json.dumps(DEFAULT_HOME): f"`{HOME_VARIABLE}`, else `{DEFAULT_HOME}`"}
INTRODUCTION: Final = """\
# Configs

What every command takes, made from the models that check it. In a file for `--config` the names are nested as here;
on the command line a `-` stands for each `_` and a dot for each level (`retriever.output_dim` is
`--retriever.output-dim`), and what is false by default is switched on by its flag alone. Where a flag is another, or
there is none, the section of the command says so. A flag overrides the file. An unknown name is refused, and so is a
value outside its bounds, or one that has no effect where it stands. Names end in `_s` where the unit is seconds, in
`_ms` where it is UTC milliseconds. A part that is not given has its own defaults (`{}`).
"""


class Field(NamedTuple):
    """A row of a table: texts in Markdown, `default` in JSON, which is YAML, or None where one is required."""

    name: str
    kind: str
    default: str | None
    meaning: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """The page: a section for each command, and one for each config that these hold."""
    users: dict[type[Config], list[str]] = {}
    for name, command in COMMANDS.items():
        users.setdefault(command.options(), []).append(name)
    parts = [INTRODUCTION]
    for options, names in users.items():
        told = [f"- `tandem {name}`: {COMMANDS[name].summary}" for name in names]
        parts += [f"## tandem {', '.join(names)}", "\n".join(told), *section(options), *command_line(names, options)]
    parts.append("## Parts of these")
    for kind in sorted(_parts_of(users), key=lambda kind: kind.__name__):
        parts += [f"### {kind.__name__}", *section(kind)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def section(kind: type[Config]) -> Iterator[str]:
    """What a config says of itself, and its table."""
    docs = [_doc(base) for base in reversed(_bases(kind))]
    yield from (text for text, _ in docs if text)
    rows = fields(kind)
    if not rows:
        return
    explained = any(row.meaning for row in rows)
    table = ["| name | value | default |" + " what it is |" * explained, "|---|---|---|" + "---|" * explained]
    for row in rows:
        default = "required" if row.default is None else _SHOWN.get(row.default, f"`{row.default}`")
        table.append(f"| `{row.name}` | {row.kind} | {default} |" + f" {row.meaning} |" * explained)
    yield "\n".join(table)


def command_line(names: list[str], options: type[Config]) -> Iterator[str]:
    """What of a command's options is not given by the dotted name: a table, or nothing."""
    found, rows = flags(options), {}
    own = {path.partition(".")[0] for path, flag in found.items() if flag and flag.startswith(dotted(path))}
    for path, flag in found.items():
        part, _, rest = path.partition(".")
        if flag is None:
            rows[f"`{path}`"] = "only in a file"
        elif not flag.startswith("-"):
            rows[f"`{path}`"] = ", ".join(f"`tandem {name} {flag}`" for name in names)
        elif part not in own and flag == dotted(rest):
            rows.setdefault(f"all else in `{part}`", f"without `{part}.`, such as `{flag}`")
        elif flag != dotted(path):
            rows[f"`{path}`"] = f"`{flag}`"
    if rows:
        table = [f"| {path} | {told} |" for path, told in rows.items()]
        yield "\n".join(["| in a file | on the command line |", "|---|---|", *table])


def dotted(path: str) -> str:
    """The flag of a field that no annotation changes."""
    return "--" + path.replace("_", "-")


def flags(options: type[Config]) -> dict[str, str | None]:
    """What each field is on the command line: a flag, a place after the command in capitals, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        actions = tyro.extras.get_parser(options, config=PARSING)._actions
    found = {
        action.dest.replace("-", "_"): max(action.option_strings, key=len, default=_place(action))
        for action in actions
        if action.dest != "help"
    }
    # A flag of a part of a list, such as of the first task, is by the dotted name.
    told = [path for path in _leaves(options) if not any(name.startswith(f"{path}.") for name in found)]
    return {path: found.get(path) for path in told}


def _place(action: argparse.Action) -> str:
    name = action.dest.upper()
    return f"[{name}]" if action.nargs == "?" else name


def _leaves(kind: type[Config], within: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, Config):
            yield from _leaves(part, f"{within}{name}.")
        else:
            yield within + name


def fields(kind: type[Config]) -> list[Field]:
    """All fields of a config, those of its bases included."""
    schemas = kind.model_json_schema()["properties"]
    meanings: dict[str, str] = {}
    for base in reversed(_bases(kind)):
        meanings |= _doc(base)[1]
    return [
        Field(name, described(schemas[name]), _default(field), meanings.get(name, ""))
        for name, field in kind.model_fields.items()
    ]


def described(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema admits, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        *others, last = (f"`{value}`" for value in schema["enum"])
        return f"{', '.join(others)} or {last}" if others else last
    if "anyOf" in schema:
        return ", or ".join(described(option) for option in schema["anyOf"])
    match schema.get("type"):
        case "null":
            return "`null`"
        case "array" if "prefixItems" in schema:
            return f"a list of {', '.join(map(described, schema['prefixItems']))}"
        case "array":
            least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
            return f"a list{least}, each {described(schema['items'])}"
        case "object":
            values = schema["additionalProperties"]
            keys = described(schema["propertyNames"]) if "propertyNames" in schema else "name"
            return f"a map: {keys} to {'anything' if values is True else described(values)}"
        case str(kind):
            bounds = [f"{sign} {schema[bound]:.12g}" for bound, sign in BOUNDS.items() if bound in schema]
            pattern = [f"that matches `{schema['pattern']}`"] if "pattern" in schema else []
            return " ".join([NAMES[kind], ", ".join(bounds), *pattern]).replace("  ", " ").strip()
        case _:
            return "anything"


def _default(field: FieldInfo) -> str | None:
    """In JSON; of a config what differs from that config's own defaults."""
    if field.is_required():
        return None
    if field.default_factory is default_home:
        return json.dumps(DEFAULT_HOME)
    value = field.get_default(call_default_factory=True)
    return json.dumps(
        value, ensure_ascii=False, default=lambda part: part.model_dump(mode="json", exclude_defaults=True)
    )


def _bases(kind: type[Config]) -> list[type[Config]]:
    """A config and those it extends."""
    return [base for base in kind.__mro__ if issubclass(base, Config) and base is not Config]


def _doc(kind: type[Config]) -> tuple[str, dict[str, str]]:
    """What a config's docstring says of all of it, and of single fields under `Attributes:`."""
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    whole, _, attributes = text.partition("Attributes:")
    named = "|".join(map(re.escape, kind.model_fields))
    parts = re.split(rf"(?:^|(?<=\s))({named}): ", " ".join(attributes.split()))[1:] if attributes else []
    return whole.strip(), {name: said.strip() for name, said in zip(parts[::2], parts[1::2], strict=True)}


def _parts_of(kinds: Mapping[type[Config], object]) -> set[type[Config]]:
    """The configs that fields of these hold, at any depth."""
    found: set[type[Config]] = set()
    waiting = [field.annotation for kind in kinds for field in kind.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, Config) and kind not in found:
            found.add(kind)
            waiting += [field.annotation for field in kind.model_fields.values()]
        waiting += get_args(kind)
    return found
