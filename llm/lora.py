"""What is trained of a model, as settings: the shape of its adapters, and who shares them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slhf.errors import require_at_least

Sharing = Literal["one", "two"]
"""Whether the roles share one set of trained parameters or have one each."""


@dataclass(frozen=True)
class LoRA:
    """Which low-rank adapters to train."""

    rank: int = 16
    """Rank r of each adapter."""
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    layers: int | None = None
    """Adapt only the last so many transformer layers (the backward pass stops below them); null for all."""
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear modules to adapt; the default is every one of a Llama or Qwen layer."""

    def __post_init__(self) -> None:
        require_at_least(self, rank=1)
