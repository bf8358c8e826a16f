"""Which number format weights take: ``dtype: auto`` becomes bfloat16 where the device has units for it, else float32.

Without units a bfloat16 product is computed by conversion, on a processor with AVX2 alone at a sixth of the speed.
A run settles it once, in its manifest, and keeps it when it goes on elsewhere (:func:`settled`).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from slhf import hardware
from slhf.runs import settle

Dtype = Literal["auto", "bfloat16", "float32"]
"""What a configuration may say."""

T = TypeVar("T")


def resolve(dtype: Dtype, device: str) -> Dtype:
    """ "bfloat16" or "float32": ``dtype`` itself unless it is "auto"."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if has_units(device) else "float32"


def has_units(device: str) -> bool:
    """Whether a device ("cpu", "cuda", "mps") multiplies bfloat16 numbers in hardware."""
    if device.startswith("cuda"):
        import torch  # here: settings are read without it

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(hardware.has_bfloat16_units())


def with_dtype(config: T, device: str, trained: bool = False) -> T:
    """A model's or a judge's settings with ``dtype`` resolved; those that have none are as they were.

    Args:
        config: the settings.
        device: where it computes.
        trained: whether all weights are trained; then "auto" is float32 everywhere: small updates vanish in bfloat16.
    """
    dtype = getattr(config, "dtype", None)
    if dtype is None:
        return config
    return replace(config, dtype="float32" if trained and dtype == "auto" else resolve(dtype, device))  # type: ignore[type-var]


def settled(config: T, what: str, record: Path, device: str, trained: bool = False) -> T:
    """``config`` in the format in which the work was begun; the first time, in the one of this device.

    It stands in ``record`` as ``settled: {"WHAT dtype": ...}``. Work that goes on where another format would be chosen
    keeps its own, and says so on standard error.

    Args:
        config: a model's or a judge's settings.
        what: "model", "judge", or a contestant's name.
        record: the run's manifest, see ``slhf.runs.settle``.
        device, trained: see :func:`with_dtype`.
    """
    here = with_dtype(config, device, trained)
    dtype = getattr(here, "dtype", None)
    if dtype is None:
        return config
    kept = settle(record, f"{what} dtype", dtype)
    if kept != dtype:
        print(
            f"{record}: {what} was {kept} where this began, and would be {dtype} here. It goes on in {kept}.",
            file=sys.stderr,
        )
    return replace(here, dtype=kept)  # type: ignore[type-var]


def explain(config: Any, what: str, device: str, trained: bool = False) -> str:
    """One line on what was chosen and why, where the settings say "auto"; else an empty one."""
    if getattr(config, "dtype", None) != "auto":
        return ""
    units = has_units(device)
    why = f"{'this processor' if device == 'cpu' else device} has {'' if units else 'no '}bfloat16 units"
    if trained:
        why = "all weights are trained"
    return f"{what} in {with_dtype(config, device, trained).dtype}: {why} (dtype: auto)"
