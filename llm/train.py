"""The training loop: collect, log-probabilities, loss, step. The algorithms differ only in collect and loss."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from tqdm import tqdm

from llm import checkpoint
from llm.algorithms import State, before_step, check, implementation, parameter_groups
from llm.data import batch_at
from llm.experience import Collector, Experience, Reward
from llm.generation import TransformersGenerator
from llm.judges import Judge
from llm.policy import LoRA, Policy
from slhf.algorithms import Algorithm
from slhf.errors import ConfigError, InvalidParameter, TrainingError, require_at_least
from slhf.runs import Run, derive_seed


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained, and how it is sampled."""

    name: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct), a directory, or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the base weights; adapters are float32."""
    temperature: float = 0.7
    """Sampling temperature, in training and evaluation."""
    max_new_tokens: int = 40
    """Longest answer, in tokens."""
    lora: LoRA | None = LoRA()
    """Shape of the adapters; null trains all weights instead (dtype must be "float32"), with a frozen copy of them as
    the reference."""
    sharing: Literal["one", "two"] = "one"
    """"one": Leader and Follower share one adapter, and the timescale weighs the Follower's loss. "two": each has its
    own, and the timescale is the ratio of their learning rates."""
    start_from: str | None = None
    """Directory of a trained adapter to start from; its frozen copy is then the reference."""

    def __post_init__(self) -> None:
        require_at_least(self, max_new_tokens=1)


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train."""

    steps: int = 20
    """Optimiser steps."""
    batch_size: int = 16
    """Prompts per step."""
    decay: bool = False
    """Let the learning rate fall linearly to zero."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null for never."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Adam's two decay rates."""
    checkpoint_every: int = 5
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_at_least(self, steps=1, batch_size=1, checkpoint_every=1)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise InvalidParameter(f"max_grad_norm = {self.max_grad_norm}: must be positive, or null for no limit.")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InvalidParameter(f"adam_betas = {self.adam_betas}: each must lie in [0, 1).")


SHOWN = ("follower_preferred", "leader_preferred", "reward", "leader_kl", "follower_kl")
"""Metrics beside the progress bar."""
SAMPLES_PER_CHECKPOINT = 4


def train(
    spec: Algorithm,
    judge: Judge,
    prompts: list[str],
    run: Run,
    model: ModelConfig | None = None,
    config: TrainConfig | None = None,
    seed: int = 0,
    reward: Reward | None = None,
) -> Policy:
    """Train ``spec`` in the run directory, from its last checkpoint if it has one; returns the policy.

    Args:
        spec: the algorithm.
        judge: whose preferences to learn.
        prompts: training prompts.
        run: where metrics, samples and checkpoints go.
        model: which model.
        config: steps, batch, optimiser.
        seed: of everything random.
        reward: the scalar reward, for RLOO.

    Raises:
        TrainingError: the loss or gradient is not finite, or a step left the adapter as it was.
        JudgeError: the judge failed.
        ConfigError: the algorithm cannot be run so.
    """
    model, config = model or ModelConfig(), config or TrainConfig()
    check(spec, model.sharing, config.steps)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        raise ConfigError("llm.train runs on one process; start it without `accelerate launch` or torchrun.")
    saved = checkpoint.find(run.path)
    policy = load_policy(model, saved and saved / "adapter", derive_seed(seed, "adapter"), str(accelerator.device))
    optimizer = torch.optim.AdamW(
        parameter_groups(spec, policy), lr=spec.learning_rate, betas=config.adam_betas, weight_decay=0.0
    )
    prepared = accelerator.prepare(optimizer)
    start, state = checkpoint.restore(saved, policy, optimizer) if saved else (0, {})
    run.rewind(start)

    collector = Collector(policy, TransformersGenerator(policy), judge, model.max_new_tokens, seed, reward)
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=spec.name, unit="step")
    for step in bar:
        collector.seconds.clear()
        batch = batch_at(prompts, config.batch_size, step, seed)
        experience = implementation(spec).collect(spec, collector, batch, step)
        with collector.phase("update"):
            metrics, state = update(spec, policy, experience, prepared, accelerator, config, step, state)
        run.log({"step": step, **metrics, **describe(experience, collector)})
        bar.set_postfix({key: f"{metrics[key]:.3f}" for key in SHOWN if key in metrics})
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            log_samples(run, experience, step)
            checkpoint.save(run.path, policy, optimizer, step + 1, state)
    return policy


def load_policy(model: ModelConfig, adapter: Path | None, seed: int, device: str) -> Policy:
    """The policy a run trains or an evaluation samples: ``model`` with a trained adapter or a new one."""
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


def update(
    spec: Algorithm,
    policy: Policy,
    experience: Experience,
    optimizer: Any,
    accelerator: Accelerator,
    config: TrainConfig,
    step: int,
    state: State,
) -> tuple[dict[str, float], State]:
    """One gradient step on the experience; returns the loss's metrics and what the algorithm remembers."""
    rate = spec.learning_rate * (1 - step / config.steps if config.decay else 1)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    parameters = [p for _, p in policy.trainable()]
    before = [p.detach().clone() for p in parameters]

    optimizer.zero_grad()
    logp = policy.logprobs(experience.batch, experience.trunk)
    loss, metrics = implementation(spec).loss(spec, logp, experience)
    accelerator.backward(loss)
    norm = float(
        accelerator.clip_grad_norm_(parameters, math.inf if config.max_grad_norm is None else config.max_grad_norm)
    )
    if not (math.isfinite(float(loss)) and math.isfinite(norm)):
        raise TrainingError(f"Step {step}: loss {float(loss)}, gradient norm {norm}. Lower the learning rate.")
    state = before_step(spec, policy, step, state)
    optimizer.step()
    if norm > 0 and all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True)):
        raise TrainingError(f"Step {step} left the adapter unchanged though its gradient has norm {norm:.1e}.")

    base = {
        f"{role}_base_loglik": float(experience.reference[mask].mean())
        for role, mask in experience.batch.owners.items()
    }
    return {
        **metrics,
        **base,
        "loss": float(loss),
        "grad_norm": norm,
        "learning_rate": rate,
    }, state


def describe(experience: Experience, collector: Collector) -> dict[str, float]:
    """Lengths, ends of sequence, seconds per phase and peak memory of a step."""
    batch, eos = experience.batch, collector.policy.chat.eos
    metrics: dict[str, float] = {}
    for role, mask in batch.owners.items():
        metrics[f"{role}_tokens"] = float(mask.sum(1).float().mean())
        metrics[f"{role}_ended"] = float(((batch.ids == eos) & mask).any(1).float().mean())
    metrics |= {f"seconds_{phase}": round(seconds, 3) for phase, seconds in collector.seconds.items()}
    if torch.cuda.is_available():
        metrics["peak_device_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    metrics["peak_memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
    return metrics


def log_samples(run: Run, experience: Experience, step: int) -> None:
    """A few of the step's conversations with what the judge said, into ``samples.jsonl``."""
    for i in range(min(SAMPLES_PER_CHECKPOINT, len(experience.signal))):
        row = {key: texts[i] for key, texts in experience.texts.items()}
        run.log({"step": step, **row, "signal": float(experience.signal[i])}, "samples.jsonl")
