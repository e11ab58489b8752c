"""The command line, and the one place that puts all packages together.

Every command takes `--config FILE.yaml`, which flags then override, and `--json`, which prints one object last on
stdout; all else goes to stderr. Exit code 0 ok, 1 failed, 2 bad usage or bad data, 130 interrupted.
"""

import contextlib
import inspect
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import tyro
from pydantic import ValidationError, create_model

from rec.cli.commands import COMMANDS
from rec.config import Config, config_error, load_config
from rec.errors import ConfigError, DataError, ScoreError, TandemError

INTERRUPTED = 130
# A flag turns what is true or false into what it is not by default.
PARSING: Final = (tyro.conf.FlagCreatePairsOff,)
COMMON_OPTIONS = (
    "--config FILE.yaml sets options by name (nested as their dots are), and flags override it; "
    "--json prints one JSON object last on stdout."
)


class Interrupted(TandemError):
    """Ctrl-C, or SIGTERM."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = _command_name(arguments)
    if name is None and arguments and not arguments[0].startswith("-"):
        return _failed(arguments[0], ConfigError(f"no such command; {_overview()}"), "--json" in arguments)
    if name is None:
        print(_overview(), file=sys.stderr if arguments[:1] not in (["--help"], ["-h"]) else sys.stdout)
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    as_json = "--json" in rest
    ray_was_running = _ray_is_running()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
            answer = COMMANDS[name].run(parse(name, rest))
    except TandemError as error:
        return _failed(name, error, as_json)
    except BrokenPipeError:
        # Whoever read our output has enough of it; there is nobody to tell, also not when Python flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(name, of_the_system(error), as_json)
    except KeyboardInterrupt:
        _failed(name, Interrupted("interrupted; what was not finished is not published"), as_json)
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        return _failed(name, TandemError(f"{type(error).__name__}: {error}"), as_json)
    finally:
        if not ray_was_running:
            _stop_ray()
    answer = {"command": name, "ok": True, **answer}
    if as_json:
        try:
            text = json.dumps(answer, allow_nan=False)
        except ValueError:
            return _failed(name, ScoreError("the answer holds a number that is not finite; check the data"), as_json)
        print(text, flush=True)
    return 0 if answer["ok"] else 1


def _command_name(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The longest prefix of the arguments that names a command, such as `data validate`."""
    for words in (3, 2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    return None, arguments


def _overview() -> str:
    from rec import __version__

    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"tandem {__version__}: a two-stage recommender that learns from its own logs",
            "",
            "commands:",
            *lines,
            "",
            "`tandem COMMAND --help` lists the options of one; all take --config FILE.yaml and --json.",
        ]
    )


def parse(name: str, arguments: Sequence[str]) -> Config:
    """The options of a command, from what stands after its name; nothing is run.

    Raises: ConfigError: for options that are not the command's, or values that are not theirs.
    """
    config_file, rest = _take_option(list(arguments), "--config")
    kind = COMMANDS[name].options()
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            return tyro.cli(
                kind,
                prog=f"tandem {name}",
                description="\n\n".join((COMMANDS[name].summary, *_docs(kind), COMMON_OPTIONS)),
                args=[argument for argument in rest if argument != "--json"],
                default=_defaults(kind, config_file),
                config=PARSING,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, ValidationError):
            raise config_error(stop.__context__, kind) from None
        raise ConfigError(_unboxed(usage.getvalue())) from None
    except ValidationError as error:
        raise config_error(error, kind) from error


def _defaults(kind: type[Config], config_file: str | None) -> Any:
    """What a file gives, if there is one; what the command requires and the file lacks is left to the flags."""
    if config_file is None:
        return None
    required: dict[str, Any] = {
        name: (field.rebuild_annotation(), tyro.MISSING_NONPROP)
        for name, field in kind.model_fields.items()
        if field.is_required()
    }
    given = load_config(create_model(kind.__name__, __base__=kind, **required), config_file)
    return kind.model_construct(**{name: getattr(given, name) for name in kind.model_fields})


def _docs(kind: type[Config]) -> list[str]:
    """What a config and those it extends say about their options."""
    kinds = kind.__mro__[: kind.__mro__.index(Config)]
    return [inspect.cleandoc(each.__doc__) for each in kinds if each.__doc__]


def _unboxed(text: str) -> str:
    """Lines of a framed message without the frame."""
    lines = (line.strip("╭╮╰╯│─ ") for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _take_option(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    for place, argument in enumerate(arguments):
        if argument == flag:
            if place + 1 == len(arguments):
                raise ConfigError(f"{flag} needs a file name after it")
            return arguments[place + 1], arguments[:place] + arguments[place + 2 :]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "="), arguments[:place] + arguments[place + 1 :]
    return None, arguments


def _failed(name: str, error: TandemError, as_json: bool) -> int:
    print(f"tandem {name}: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"command": name, "ok": False, "error": error.to_json()}), flush=True)
    return error.exit_code


def of_the_system(error: OSError) -> TandemError:
    """What the system refused: where it names a file, that, else such as a connection, memory, or the disk's space."""
    said = error.strerror or str(error)
    if error.filename is None:
        return TandemError(f"{type(error).__name__}: {said}")
    return DataError(f"{said}; check the path", file=str(error.filename))


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _ray_is_running() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _stop_ray() -> None:
    """Ends the Ray that the command started, if it started one; a second Ctrl-C must not leave half of it behind."""
    if _ray_is_running():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.modules["ray"].shutdown()


def entry() -> NoReturn:
    """The `tandem` console script."""
    sys.exit(main())
