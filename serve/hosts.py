"""By which names a service may be asked for.

A page of any site may make its visitor's browser ask 127.0.0.1 for things, and after a change in the DNS (rebinding)
under a name of that site, so that the page may read the answer, too. The header Host tells by which name was asked.
"""

import re
from http import HTTPStatus
from typing import Final, final

from serve.config import LOOPBACK, ServeConfig
from serve.problems import ProblemError

_HOST: Final = re.compile(r"\[?([0-9A-Za-z_.-]+|[0-9A-Fa-f:.]+(?=\]))\]?(:[0-9]*)?")


@final
class Hosts:
    """The names there are; any, for a service of others than this machine, unless the config has some."""

    def __init__(self, config: ServeConfig) -> None:
        inside = config.host in LOOPBACK
        self._names = frozenset(map(str.lower, config.hosts)).union(LOOPBACK) if inside or config.hosts else None

    def check(self, header: str | None) -> None:
        """Raises: ProblemError: 421 for another name; a request without one comes from no browser."""
        if self._names is None or header is None:
            return
        match = _HOST.fullmatch(header)
        if match is None or match[1].lower() not in self._names:
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"host: the service does not answer as {header[:80]!r}; start it with `--hosts NAME` to let it",
                "host",
            )
