"""Ports that a service is about to listen on, kept from other services that start at the same moment."""

import socket
import sys
from contextlib import closing, suppress
from typing import Final, final

from rec.errors import ConfigError

_TRIES: Final = 10


@final
class ClaimedPort:
    """A port that no other service of this machine claims until `close`, or until this process ends.

    Between a look whether a port is free and the moment when HAProxy listens on it, seconds pass, and HAProxies share a
    port without a word. So it is claimed by a name that the kernel gives to one process only; elsewhere than on Linux,
    which has no such names, it is only looked whether the port is free.

    Attributes: number: of the port.
    """

    def __init__(self, host: str, wanted: int) -> None:
        """Claims the wanted port where it is free and not claimed, else another.

        Args: host: address to listen on, "" for all. wanted: 0 for any.
        Raises: ConfigError: for a host on which nothing can be bound.
        """
        for port in (wanted, *[0] * _TRIES):
            number = free_port(host, port)
            if port not in (0, number):
                continue
            with suppress(OSError):
                self._name = _named(number)
                self.number = number
                return
        raise ConfigError(f"no free port of {host or 'this machine'} was found: end some services", field="port")

    def close(self) -> None:
        """Gives up the claim. A second call does nothing."""
        if self._name is not None:
            self._name.close()


def _named(port: int) -> socket.socket | None:
    """A socket of Linux's abstract namespace, which goes with its process. Raises: OSError: where another has it."""
    if sys.platform != "linux":
        return None
    name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        name.bind(f"\0tandem {port}")
    except OSError:
        name.close()
        raise
    return name


def free_port(host: str, wanted: int) -> int:
    """The wanted port where it is free, else another.

    Raises: ConfigError: for a host on which nothing can be bound.
    """
    for port in (wanted, 0):
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ConfigError(f"no port of {host} can be bound; is it an address of this machine?", field="host")
