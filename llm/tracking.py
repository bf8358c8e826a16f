"""Metrics to tensorboard, wandb or trackio, through ``accelerate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from slhf.errors import MissingResource

PROJECT = "slhf"
"""Name of the project at wandb and trackio, and of tensorboard's folder in the run directory."""


def require_installed(trackers: Sequence[str]) -> None:
    """Refuse a tracker that is not installed; ``accelerate`` would leave it out in silence.

    Raises:
        MissingResource: naming the package.
    """
    available = [str(name) for name in get_available_trackers()]
    for name in trackers:
        if name not in available:
            raise MissingResource(f"The tracker {name} is not installed: `pip install {name}`, or leave it out.")


def start(accelerator: Accelerator, path: Path, step: int, settings: dict[str, Any]) -> None:
    """Open the accelerator's trackers for the run in directory ``path``, which goes on at ``step``.

    What an interrupted process logged of ``step`` and later is superseded: tensorboard purges it, and wandb and
    trackio, which cannot, go on with the run of the same name (wandb ignores steps it has seen).
    """
    named = {"name": path.name, "resume": "allow"}
    options = {
        "tensorboard": {"purge_step": step},
        "wandb": {**named, "id": path.name, "dir": str(path)},
        "trackio": named,
    }
    accelerator.init_trackers(PROJECT, None if step else flatten(settings), options)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names; what is not a number or text becomes text."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
