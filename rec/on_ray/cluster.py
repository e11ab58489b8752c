"""Starting Ray, or joining the cluster there is."""

import logging
import os
import secrets
from pathlib import Path
from typing import Final

import ray

from rec.errors import TandemError

# Where Ray looks for the token of a cluster that it starts, unless one is given.
TOKEN_FILE: Final = Path(".ray") / "auth_token"
TOKEN_VARIABLES: Final = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def ensure_ray(workers: int) -> None:
    """Joins the cluster of RAY_ADDRESS or of the job this runs in; else starts a Ray for this process alone.

    A Ray of its own listens without a dashboard and ends with the process. It has a CPU for every training worker,
    even where the machine has fewer, and answers to a token of this user alone, unless RAY_AUTH_MODE says otherwise.

    Raises: TandemError: when Ray does not start, or the cluster does not answer.
    """
    # Ray Train notices the end of a worker at its next look; its default of two seconds delays every short run.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(**quiet)
        else:
            keep_token_private(Path.home())
            ray.init(address="local", num_cpus=max(os.cpu_count() or 1, workers), include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises Exception itself where its processes do not start in time.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if address:
            what = f"the Ray cluster of RAY_ADDRESS={address} cannot be joined; is it up, and its token here?"
        else:
            what = "Ray did not start; is the machine overloaded, or its memory or disk full? Try again once it is not."
        raise TandemError(f"{what} Ray says: {reason}") from error


def keep_token_private(home: Path) -> None:
    """Makes the token that a Ray started here asks for, readable by this user alone; Ray would let all read it.

    Nothing is done where another token is given, or none is to be asked for.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or any(map(os.environ.get, TOKEN_VARIABLES)):
        return
    file = home / TOKEN_FILE
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
