"""Where models, logs and runs are."""

import os
from typing import Annotated, Final

from pydantic import Field

HOME_VARIABLE: Final = "TANDEM_HOME"
DEFAULT_HOME: Final = "./.tandem"


def default_home() -> str:
    """Where models, logs and runs are when nothing else is said: TANDEM_HOME, else ./.tandem."""
    return os.environ.get(HOME_VARIABLE) or DEFAULT_HOME


HomePath = Annotated[str, Field(default_factory=default_home)]
