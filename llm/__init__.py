"""StackelbergGDA and its rivals on real language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slhf.lazy import exports

if TYPE_CHECKING:
    from llm.policy import Policy
    from llm.refine import refine
    from llm.train import train

__all__ = ["Policy", "refine", "train"]

__getattr__ = exports(__name__, {"Policy": "policy", "refine": "refine", "train": "train"})  # they bring torch
