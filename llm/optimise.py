"""One step of the optimiser: the gradient of an algorithm's loss, checked, clipped, and applied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llm.algorithms import implementation
from llm.config import TrainConfig
from llm.experience import Experience
from llm.microbatch import logprobs, micro_batches
from llm.policy import Policy
from slhf.algorithms import Algorithm
from slhf.errors import ConfigError, TrainingError


def make_optimizer(spec: Algorithm, policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay over what the policy trains.

    Raises:
        TrainingError: the policy trains nothing.
    """
    parameters = [p for _, p in policy.trainable()]
    if not parameters:
        raise TrainingError("The policy has no trainable parameter: its adapters are frozen.")
    return torch.optim.AdamW(parameters, lr=spec.learning_rate, betas=config.adam_betas, weight_decay=0.0)


def rate_factor(config: TrainConfig, step: int) -> float:
    """What the learning rate of ``step`` (from 0) is multiplied with, in (0, 1].

    It rises along a line through the W = ceil(warmup * steps) first steps, is 1 at step W and then follows the
    schedule towards 0, which it would reach at step ``steps``.
    """
    rising = math.ceil(config.warmup * config.steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    progress = (step - rising) / (config.steps - rising)
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2


def update(
    spec: Algorithm,
    policy: Policy,
    experience: Experience,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    inspect: bool,
) -> tuple[Tensor, dict[str, float]]:
    """One gradient step on the experience.

    Args:
        spec: the algorithm.
        policy: whose parameters move.
        experience: what was sampled and judged.
        optimizer: of ``make_optimizer``.
        config: schedule, clipping, micro-batches.
        step: which step of the run this is, from 0.
        inspect: also require that the parameters changed.

    Returns:
        logp: (B, T), the policy's log-probabilities before the step.
        metrics: the loss's own, the loss, the gradient's norm before clipping and the learning rate.

    Raises:
        TrainingError: signal, loss or gradient is not finite, no gradient arrived, or nothing changed.
    """
    rate = spec.learning_rate * rate_factor(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    with recomputing(policy, config.gradient_checkpointing):
        loss, metrics, logp = backward(spec, policy, experience, config.tokens_per_micro_batch)
    parameters = [p for _, p in policy.trainable()]
    limit = math.inf if config.max_grad_norm is None else config.max_grad_norm
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(norm):
        raise TrainingError(f"Step {step}: the gradient's norm is {norm}. Lower the learning rate.")
    before = [p.detach().clone() for p in parameters] if inspect else []
    optimizer.step()
    if inspect and norm > 0 and all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True)):
        raise TrainingError(f"Step {step} changed no parameter though the gradient has norm {norm:.1e}.")
    return logp, {**metrics, "loss": float(loss), "grad_norm": norm, "learning_rate": rate}


def backward(
    spec: Algorithm, policy: Policy, experience: Experience, budget: int | None
) -> tuple[Tensor, dict[str, float], Tensor]:
    """Add the loss's gradient to the parameters'; returns loss, its metrics and logp (B, T), without gradient.

    A loss may couple any rows (baselines do), so it cannot be summed over micro-batches. It is a function of the
    log-probabilities alone, so the chain rule can be cut there: one pass without gradient gives all of them,
    the loss gives dL/dlogp, and each micro-batch sends its rows of that on to the parameters.

    Raises:
        TrainingError: the signal or the loss is not finite, or the log-probabilities depend on nothing trained.
    """
    if not torch.isfinite(experience.signal).all():
        raise TrainingError("The judge's preferences or rewards are not all finite.")
    batch, parts = experience.batch, micro_batches(experience.batch, budget)
    whole = policy.logprobs(batch) if len(parts) == 1 else None  # its graph serves both passes
    logp = (logprobs(policy, batch, budget) if whole is None else whole.detach()).requires_grad_()
    loss, metrics = implementation(spec).loss(spec, logp, experience)
    if not torch.isfinite(loss):
        raise TrainingError(f"The loss is {loss.item()}. Lower the learning rate.")
    (slope,) = torch.autograd.grad(loss, logp)
    for rows in parts:
        part = policy.logprobs(batch.rows(rows)) if whole is None else whole
        if not part.requires_grad:
            raise TrainingError("No gradient reaches what is trained: the adapter is switched off.")
        part.backward(slope[rows, : part.shape[1]])
    return loss.detach(), metrics, logp.detach()


@contextmanager
def recomputing(policy: Policy, on: bool) -> Iterator[None]:
    """Within this context the layers keep only their inputs for the backward pass, if ``on``.

    Only the layers themselves are put into training mode, which ``transformers`` asks for before it checkpoints:
    their parts stay as they are, without dropout.

    Raises:
        ConfigError: the model has no layer that can.
    """
    layers = [module for module in policy.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if on and not layers:
        raise ConfigError(f"{type(policy.model.get_base_model()).__name__} cannot checkpoint gradients.")
    for layer in layers if on else []:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers if on else []:
            layer.gradient_checkpointing = layer.training = False
