"""What keeps a new class from going without the tests of its interface."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def classes_with() -> Callable[..., set[type]]:
    """The classes of a package, interfaces apart, that have all the attributes named."""

    def classes(package: str, *attributes: str) -> set[type]:
        paths = importlib.import_module(package).__path__
        modules = [importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(paths)]
        found = [member for module in modules for _, member in inspect.getmembers(module, inspect.isclass)]
        return {
            one
            for one in found
            if one.__module__.startswith(package)
            and not getattr(one, "_is_protocol", False)
            and all(hasattr(one, attribute) for attribute in attributes)
        }

    return classes
