"""Models of several versions in one process, each loaded once, the least used forgotten."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar, final

Model = TypeVar("Model")


@final
class LoadedModels(Generic[Model]):
    """Models by version; belongs to one event loop, and loads in threads beside it."""

    def __init__(self, load: Callable[[str], Model], capacity: int) -> None:
        """Args: load: a version, or raises. capacity: models kept; one more is in memory while it is loaded."""
        self._load = load
        self._capacity = capacity
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Model]] = {}

    async def get(self, version: str) -> Model:
        """The model of a version, loaded where it is not there; however many ask meanwhile wait for the same.

        Raises: what loading it does; whoever asks next loads it anew.
        """
        if version in self._models:
            self._models.move_to_end(version)
            return self._models[version]
        if version not in self._loading:
            self._loading[version] = asyncio.create_task(self._loaded(version))
        return await asyncio.shield(self._loading[version])

    async def _loaded(self, version: str) -> Model:
        try:
            model = self._models[version] = await asyncio.to_thread(self._load, version)
        finally:
            del self._loading[version]
        if len(self._models) > self._capacity:
            self._models.popitem(last=False)
        return model
