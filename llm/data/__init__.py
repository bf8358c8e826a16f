"""Prompts and preferences: the set written for this project, local files, and data sets of the hub."""

from llm.data.preferences import Comparison, Message, PreferenceConfig, load_preferences
from llm.data.prompts import EMBEDDED, SPLITS, batch_at, load_prompts

__all__ = [
    "EMBEDDED",
    "SPLITS",
    "Comparison",
    "Message",
    "PreferenceConfig",
    "batch_at",
    "load_preferences",
    "load_prompts",
]
