"""Names of a package that are imported when they are first used: the command line starts fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any


def load_when_named(package: str, **modules: str) -> Callable[[str], Any]:
    """The `__getattr__` (PEP 562) of `package`; each of `modules` has its names, between spaces."""
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if module := homes.get(name):
            value = getattr(import_module(f"{package}.{module}"), name)
            setattr(sys.modules[package], name, value)
            return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load


def load_when_called(module: str, *names: str) -> Iterator[Callable[..., Any]]:
    """A function for each of the names: it calls the one of that name in `module`, which is loaded
    then. So those who import it by name need not load the module.
    """

    def standing_for(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(module), name)(*args, **kwargs)

        return call

    return map(standing_for, names)
