"""StackelbergGDA and its rivals on real language models."""

from llm.policy import Policy
from llm.refine import refine
from llm.train import train

__all__ = ["Policy", "refine", "train"]
