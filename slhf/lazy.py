"""Packages whose exports are imported when they are first asked for, so that what one does not use costs no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562).

    An export may have the name of its module, as ``llm.train`` has: importing the module binds the name to it, and
    the package then keeps the export instead.

    Args:
        package: its name.
        modules: each export's name, with the module of the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{modules[name]}")
        return vars(module).get(name, module)

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            exported = modules.get(name) == name and isinstance(value, ModuleType) and name in vars(value)
            super().__setattr__(name, vars(value)[name] if exported else value)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *modules})

    sys.modules[package].__class__ = Package
    return get
