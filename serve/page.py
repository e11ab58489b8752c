"""The page at `/`: the files of the folder beside this module, with headers that let nothing else in."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import FileResponse

from serve.gateway import Gateway
from serve.problems import ProblemError
from serve.schemas import PageSetup

FOLDER: Final = Path(__file__).with_name("page")
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}


def add_page(
    app: FastAPI,
    gateway: Gateway,
    offered_to: Sequence[Any],
    bounded: Callable[[], AbstractAsyncContextManager[object]],
) -> None:
    """Adds the page, its files and what it offers to an application, and to no documentation.

    Args: offered_to: dependencies that let those in who may see what it offers, users among it. bounded: refuses what
        takes too long inside, or is too much.
    """
    files = {file.name for file in FOLDER.iterdir()}

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/page/setup.json", include_in_schema=False, dependencies=offered_to)
    async def offered() -> PageSetup:
        async with bounded():
            return await gateway.page_setup()

    @app.get("/page/{name}", include_in_schema=False)
    def file(name: str) -> FileResponse:
        if name not in files:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"the page has no file {name!r}")
        return FileResponse(FOLDER / name, headers=HEADERS)
