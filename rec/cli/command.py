"""What a command is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rec.config import Config

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """What a command is for, which options it takes, and what does it."""

    summary: str
    options: Callable[[], type[Config]]
    run: Callable[[Any], Answer]
