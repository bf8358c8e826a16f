"""StackelbergGDA and its rivals on real language models."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.policy import Policy
    from llm.refine import refine
    from llm.train import train

__all__ = ["Policy", "refine", "train"]


def __getattr__(name: str) -> Any:
    """The exports, imported when they are first asked for: they bring torch, and reading settings needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)


class _Package(ModuleType):
    """Keeps ``llm.train`` and ``llm.refine`` the functions after the modules of these names have been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        exported = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if exported else value)


sys.modules[__name__].__class__ = _Package
