"""Prompts and preferences: the set written for this project, local files, and data sets of the hub.

``sources`` reads tables, ``conversations`` the forms in which data sets write them, ``selection`` splits, filters,
orders and counts, and ``prompts`` and ``preferences`` are what is asked for.
"""

from llm.data.preferences import Comparison, PreferenceConfig, load_preferences
from llm.data.prompts import PromptConfig, batch_at, load_prompts
from llm.data.sources import PRESETS, SPLITS, Message, Split

__all__ = [
    "PRESETS",
    "SPLITS",
    "Comparison",
    "Message",
    "PreferenceConfig",
    "PromptConfig",
    "Split",
    "batch_at",
    "load_preferences",
    "load_prompts",
]
