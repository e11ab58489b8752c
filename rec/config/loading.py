"""Configs from files and plain values, with errors that name the field."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from rec.config.base import Config
from rec.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(kind: type[ConfigT], path: str | Path) -> ConfigT:
    """A config from a YAML file.

    An empty file, or one of comments only, is a config in which nothing is given.

    Raises: ConfigError: naming the file and the field, for a file that is missing, no YAML, or has a wrong field.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no config can be read: {error.strerror}; check the path", file=str(path)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"not readable as YAML: {error}", file=str(path)) from error
    except RecursionError as error:
        raise ConfigError("not readable as YAML: nested too deeply; is this the right file?", file=str(path)) from error
    return parse_config(kind, {} if values is None else values, file=str(path))


def parse_config(kind: type[ConfigT], values: Any, *, file: str | None = None) -> ConfigT:
    """A config from plain values, with errors that name the field."""
    if not isinstance(values, dict):
        raise ConfigError("a config is a mapping of names to values; is this the right file?", file=file)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise config_error(error, kind, file=file) from error


def config_error(error: ValidationError, kind: type[Config], *, file: str | None = None) -> ConfigError:
    """The first complaint of pydantic about a config of a kind; of a field that is none, it names those there are."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        # Raised by a config of ours, which says what it found; the input would be all of it.
        return ConfigError(first["msg"].removeprefix("Value error, "), file=file, field=field or None)
    if first["type"] == "extra_forbidden":
        names = _names_at(kind, first["loc"][:-1])
        known = f"; there are {', '.join(names)}" if names else ""
        return ConfigError(f"there is no such field{known}; check the spelling", file=file, field=field)
    return ConfigError(f"{first['msg']}; found {first.get('input')!r}", file=file, field=field or None)


def _names_at(kind: type[Config], place: Sequence[int | str]) -> list[str]:
    """The fields of a config within another; none where one of several kinds may stand there."""
    for part in place:
        if isinstance(part, int):
            continue
        if part not in kind.model_fields:
            return []
        kinds = list(_kinds_in(kind.model_fields[part].annotation))
        if len(kinds) != 1:
            return []
        kind = kinds[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _kinds_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for inner in get_args(annotation):
        yield from _kinds_in(inner)
