"""One step of the optimiser: the gradient of an algorithm's loss, checked, clipped, and applied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llm.algorithms import State, before_step, implementation, parameter_groups
from llm.chat import Role
from llm.config import TrainConfig
from llm.distributed import ALONE, Part, ShardedPolicy, gathered, share, sum_gradients, whole
from llm.experience import Experience
from llm.microbatch import logprobs, micro_batches, rows_of
from llm.policy import Policy
from slhf.algorithms import Algorithm
from slhf.errors import ConfigError, TrainingError

ROLES: tuple[Role, ...] = ("leader", "follower")
"""Whose the optimiser's groups are, in order; the first is both roles' where they share their parameters."""


def make_optimizer(spec: Algorithm, policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay over what the policy trains, a group for each role that has its own parameters.

    Raises:
        TrainingError: the policy trains nothing.
    """
    groups = parameter_groups(spec, policy)
    if not all(group["params"] for group in groups):
        raise TrainingError("The policy has no trainable parameter: its adapters are frozen.")
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=config.adam_betas, weight_decay=0.0)

    def count(*_: Any) -> None:
        policy.steps += 1

    optimizer.register_step_post_hook(count)
    return optimizer


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
    state: State,
    inspect: bool,
    part: Part | None = None,
) -> tuple[Tensor, dict[str, float], State]:
    """One gradient step on the experience.

    Args:
        spec: the algorithm.
        policy: whose parameters move.
        experience: what was sampled and judged.
        optimizer: of :func:`make_optimizer`.
        config: schedule, clipping, micro-batches.
        state: what the algorithm remembers.
        inspect: also require that the parameters change.
        part: what of the experience this process reads; None for all.

    Returns:
        logp: (R, T), the policy's log-probabilities before the step.
        metrics: the loss's own, the loss, the gradient's norm before clipping and the (Leader's) learning rate.
        state: what the algorithm remembers now.

    Raises:
        TrainingError: signal, loss or gradient is not finite, or the inspection failed.
    """
    step, groups = experience.step, optimizer.param_groups
    rate = spec.learning_rate * rate_factor(config, step)
    for group in groups:
        group["lr"] = rate * group["factor"]
    optimizer.zero_grad()
    with recomputing(policy, config.gradient_checkpointing):
        loss, metrics, logp = backward(spec, policy, experience, config.tokens_per_micro_batch, part)
    norms = clip(groups, config.max_grad_norm, step)
    state = before_step(spec, policy, step, state)
    with must_change(groups, step) if inspect else nullcontext():
        optimizer.step()
    return logp, {**metrics, "loss": float(loss), **norms, "learning_rate": rate}, state


def clip(groups: list[dict[str, Any]], limit: float | None, step: int) -> dict[str, float]:
    """Scale the gradient down to ``limit``; its norm before that, and each role's where it has its own parameters.

    Raises:
        TrainingError: the norm is not finite, or a role's parameters have no gradient.
    """
    metrics = {}
    for role, group in zip(ROLES, groups, strict=False):
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        if not gradients:
            raise TrainingError(f"Step {step}: no gradient reached the {role}'s parameters.")
        if len(groups) > 1:
            metrics[f"{role}_grad_norm"] = float(torch.nn.utils.get_total_norm(gradients))
    everything = [p for group in groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(everything, math.inf if limit is None else limit)
    metrics["grad_norm"] = float(whole(norm))
    if not math.isfinite(metrics["grad_norm"]):
        raise TrainingError(f"Step {step}: the gradient's norm is {metrics['grad_norm']}. Lower the learning rate.")
    return metrics


@contextmanager
def must_change(groups: list[dict[str, Any]], step: int) -> Iterator[None]:
    """Within this context the optimiser steps. One tensor of each group, that of the largest gradient, must move.

    A gradient of exactly zero (all comparisons tied) moves nothing and is no error; neither is a role that rests.

    Raises:
        TrainingError: naming the role whose parameters stay as they were.
    """
    watched = []
    for role, group in zip(ROLES, groups, strict=False):
        trained = [p for p in group["params"] if p.grad is not None]
        if trained:
            loudest = max(trained, key=lambda p: float(whole(p.grad).abs().max()))
            watched.append((role, loudest, whole(loudest.detach()).clone()))
    yield
    for role, p, before in watched:
        if bool((whole(p.grad) != 0).any()) and torch.equal(whole(p.detach()), before):
            raise TrainingError(f"Step {step} left the {role}'s parameters unchanged though they have a gradient.")


def backward(
    spec: Algorithm, policy: Policy, experience: Experience, budget: int | None, part: Part | None = None
) -> tuple[Tensor, dict[str, float], Tensor]:
    """Add the loss's gradient to the parameters'; returns loss, its metrics and logp (R, T), without gradient.

    A loss may couple any rows (baselines do), so it cannot be summed over micro-batches or processes. It is a
    function of the log-probabilities alone, so the chain rule can be cut there: one pass without gradient gives all
    of them, the loss gives dL/dlogp, and each micro-batch sends its rows of that on to the parameters.

    Raises:
        TrainingError: the signal or the loss is not finite, or the log-probabilities depend on nothing trained.
    """
    if not torch.isfinite(experience.signal).all():
        raise TrainingError("The judge's preferences or rewards are not all finite.")
    part = part or share(experience, ALONE)[1]
    batch, trunk, pieces = part.batch, part.trunk, pieces_of(part, policy, budget)
    once = policy.logprobs(batch, trunk) if len(pieces) == 1 else None  # its graph serves both passes
    if once is None:
        with gathered(policy):
            mine = logprobs(policy, batch, budget, trunk)
    else:
        mine = once
    logp = part.spread(mine, experience.batch.ids.shape).requires_grad_()
    loss, metrics = implementation(spec).loss(spec, logp, experience)
    if not torch.isfinite(loss):
        raise TrainingError(f"The loss is {loss.item()}. Lower the learning rate.")
    (slope,) = torch.autograd.grad(loss, logp)
    for rows, weight in pieces:
        piece = policy.logprobs(*rows_of(batch, trunk, rows)) if once is None else once
        if not piece.requires_grad:
            raise TrainingError("No gradient reaches what is trained: the adapter is switched off.")
        piece.backward(weight * slope[part.rows[rows], : piece.shape[1]])
    if not isinstance(policy, ShardedPolicy):
        sum_gradients([p for _, p in policy.trainable()], part.processes)
    return loss.detach(), metrics, logp.detach()


def pieces_of(part: Part, policy: Policy, budget: int | None) -> list[tuple[Tensor, float]]:
    """The micro-batches of our part and what their dL/dlogp is multiplied with.

    A sharded policy's processes exchange weights in every pass, so they must make the same number of passes: who has
    fewer repeats one with weight 0. And it averages gradients over the processes where their sum is wanted.
    """
    pieces = micro_batches(part.batch, budget)
    if not isinstance(policy, ShardedPolicy):
        return [(rows, 1.0) for rows in pieces]
    missing = max(part.processes.everyones(len(pieces))) - len(pieces)
    return [(rows, float(part.processes.count)) for rows in pieces] + [(pieces[-1], 0.0)] * missing


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
        raise ConfigError(f"{type(policy.decoder).__name__} cannot checkpoint gradients.")

    def as_before() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # the backward pass comes when another adapter may be active than the one that a layer was run with
        return nullcontext(), policy.active(policy.adapter)

    for layer in layers if on else []:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, context_fn=as_before)
        layer.gradient_checkpointing = layer.training = True
    try:
        yield
    finally:
        for layer in layers if on else []:
            layer.gradient_checkpointing = layer.training = False
