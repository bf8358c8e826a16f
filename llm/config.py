"""What a training run is told: which model, and how to train it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm.lora import LoRA
from llm.precision import Dtype
from slhf.errors import InvalidParameter, require_at_least

if TYPE_CHECKING:
    from llm.policy import Policy

TRACKERS = ("tensorboard", "wandb", "trackio")
"""What ``TrainConfig.trackers`` may name; each is a package of the same name."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained, and how it is sampled."""

    name: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct), a directory, or a hub id."""
    dtype: Dtype = "auto"
    """Of the base's weights: "auto" for bfloat16 where the device has units for it, else float32. Adapters are
    float32."""
    temperature: float = 0.7
    """Sampling temperature, in training and evaluation."""
    max_new_tokens: int = 40
    """Longest answer, in tokens."""
    lora: LoRA | None = LoRA()
    """Shape of the adapters; null trains all weights instead (in float32), with a frozen copy of them as
    the reference."""
    sharing: Literal["one", "two"] = "one"
    """"one": Leader and Follower share one adapter, and the timescale weighs the Follower's loss. "two": each has its
    own, and the timescale is the ratio of their learning rates."""
    start_from: str | None = None
    """Directory of a trained adapter to start from; its frozen copy is then the reference."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """What samples in training: the trained model itself, or a vLLM engine beside it (adapters only, one process; not
    for mixtures)."""

    def __post_init__(self) -> None:
        require_at_least(self, max_new_tokens=1)


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train, and what to keep of it."""

    steps: int = 20
    """Optimiser steps."""
    batch_size: int = 16
    """Prompts per step."""
    tokens_per_micro_batch: int | None = None
    """Tokens (padding included) that one forward pass of the update reads; null for the whole batch at once.
    The gradient is the same for any value; memory shrinks with it, and more than one micro-batch costs one
    more forward pass. A conversation longer than this is a micro-batch of its own."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of each transformer layer and compute the rest again in the backward pass: less
    memory for about a third more time in the update."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up: as it is, or falling to zero along a line or half a cosine."""
    warmup: float = 0.0
    """Share of the steps, in [0, 1), over which the learning rate first rises along a line."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null for never."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Adam's two decay rates."""
    checkpoint_every: int = 5
    """Steps between checkpoints; the last step always makes one."""
    keep_checkpoints: int = 1
    """How many of the newest checkpoints stay on disk."""
    keep_every: int | None = None
    """Checkpoints after a multiple of so many steps stay on disk for good; null for none."""
    timeout_minutes: float = 30.0
    """With several processes: how long one waits for another before the run ends with an error. A step takes as long
    as its slowest process, and process 0 alone fits RLOO's reward."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside ``metrics.jsonl``: any of "tensorboard", "wandb", "trackio"."""

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1, checkpoint_every=1, keep_checkpoints=1)
        require_at_least(self, tokens_per_micro_batch=1, keep_every=1)
        if not self.timeout_minutes > 0:
            raise InvalidParameter(f"TrainConfig.timeout_minutes = {self.timeout_minutes}: must be positive.")
        if not 0 <= self.warmup < 1:
            raise InvalidParameter(f"TrainConfig.warmup = {self.warmup}: must lie in [0, 1).")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise InvalidParameter(
                f"TrainConfig.max_grad_norm = {self.max_grad_norm}: must be positive, or null for no limit."
            )
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InvalidParameter(f"TrainConfig.adam_betas = {self.adam_betas}: each must lie in [0, 1).")
        unknown = sorted(set(self.trackers) - set(TRACKERS))
        if unknown:
            raise InvalidParameter(
                f"TrainConfig.trackers names {', '.join(map(repr, unknown))}; there are: {', '.join(TRACKERS)}."
            )
        if self.schedule not in ("constant", "linear", "cosine"):
            raise InvalidParameter(f"TrainConfig.schedule = {self.schedule!r}: must be constant, linear or cosine.")


BOUNDS = (
    "tokens_per_micro_batch",
    "gradient_checkpointing",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "timeout_minutes",
    "trackers",
)
"""Settings of a training that bound its memory, disk or time, and do not change what is learned."""


def identity(config: TrainConfig) -> dict[str, Any]:
    """What the learned policy depends on: a run is named by it, and goes on after any other setting has changed.

    So a run that ran out of memory goes on from its checkpoint with smaller micro-batches; its gradients are the
    same up to rounding.
    """
    return {name: value for name, value in asdict(config).items() if name not in BOUNDS}


def load_policy(model: ModelConfig, adapter: Path | None, seed: int, device: str) -> Policy:
    """The policy a run trains or an evaluation samples: ``model`` with a trained adapter or a new one."""
    from llm.policy import Policy  # here: it brings torch, which settings are read without

    return Policy.load(
        model.name,
        model.lora,
        adapter,
        temperature=model.temperature,
        dtype=model.dtype,
        device=device,
        seed=seed,
        sharing=model.sharing,
        start_from=None if model.start_from is None else Path(model.start_from),
    )
