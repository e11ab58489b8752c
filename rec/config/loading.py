"""Configs from files and plain values, with errors that name the field."""

from pathlib import Path
from typing import Any, TypeVar

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
        raise config_error(error, file=file) from error


def config_error(error: ValidationError, *, file: str | None = None) -> ConfigError:
    """The first complaint of pydantic, naming the field."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        # Raised by a config of ours, which says what it found; the input would be all of it.
        return ConfigError(first["msg"].removeprefix("Value error, "), file=file, field=field or None)
    return ConfigError(f"{first['msg']}; found {first.get('input')!r}", file=file, field=field or None)
