"""Log-probabilities of given tokens that never hold the [tokens x vocabulary] matrix of logits.

The output layer is the largest matrix product of a small model, and its logits the largest tensor of any: 16
sequences of 1,000 tokens and a vocabulary of 150,000 make 9.6 GB in float32. Here they live a chunk at a time.

A product of bfloat16 numbers is summed in float32, and stays that where torch can return it (on NVIDIA's GPUs).
Elsewhere, as on a CPU, it is rounded to bfloat16, a logit between 16 and 32 by up to 1/16. That moves a token's
log-probability by some hundredths of a nat (.037 on average where it was measured), and puts a floor of about .002 nats
a token under every KL: smaller ones cannot be told from none. ``dtype: float32`` has no such floor.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

CHUNK_LOGITS = 2**23
"""Logits computed at a time (32 MB in float32, within a processor's cache); at least one token's."""
CHUNK_LOGITS_GPU = 2**26
"""The same on a GPU, where a large chunk keeps the matrix product efficient (256 MB)."""


def token_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float) -> Tensor:
    """log softmax((hidden W^T + b) / temperature)[targets], float32, shape (N,), differentiable.

    Args:
        hidden: (N, d), in the dtype of the output layer.
        weight: (V, d), the output layer.
        bias: (V,) or None.
        targets: (N,), int64.
        temperature: divides the logits.
    """
    return _TokenLogprobs.apply(hidden, weight, bias, targets, temperature)


def float_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden W^T + b in float32, (N, V), a new tensor; where torch can, without rounding to the inputs' dtype.

    Args:
        hidden: (N, d).
        weight: (V, d).
        bias: (V,) or None.
    """
    if hidden.dtype != torch.float32 and _offers_float32(hidden.device.type, hidden.dtype):
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        return logits if bias is None else logits.add_(bias)
    return linear(hidden, weight, bias).float()


def head_logits(head: Any, hidden: Tensor) -> Tensor:
    """The same of an output layer, (N, V), for sampling."""
    if hidden.dtype != torch.float32 and _offers_float32(hidden.device.type, hidden.dtype):
        return float_logits(hidden, head.weight, head.bias)
    return head(hidden).float()  # by its own forward, which may be that of FastLinears


@lru_cache
def _offers_float32(device: str, dtype: torch.dtype) -> bool:
    """Whether torch returns products of such numbers in float32; it has no other way to tell than to try."""
    x = torch.ones(16, 16, device=device, dtype=dtype)
    try:
        return torch.mm(x, x, out_dtype=torch.float32).dtype == torch.float32
    except (NotImplementedError, RuntimeError, TypeError):
        return False


class _TokenLogprobs(torch.autograd.Function):
    """One pass for a frozen output layer, two for a trained one.

    Token n's log-probability depends on hidden state n alone, so its gradient there is a vector, known as soon
    as the logits are: (W[target] - sum_v p_v W[v]) / temperature. The forward pass keeps that vector, (N, d), and
    backward only scales it. The gradient of the output layer needs the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> Tensor:
        out = hidden.new_empty(len(hidden), dtype=torch.float32)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, bias, temperature)
            normaliser = logits.logsumexp(-1)
            at = targets[rows, None]
            out[rows] = logits.gather(-1, at).squeeze(-1) - normaliser
            if slope is not None:
                slope[rows] = (_residual(logits, normaliser, at) / temperature).to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, bias, targets, slope)
        ctx.temperature = temperature
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, slope = ctx.saved_tensors
        d_hidden = (slope * grad[:, None]).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return d_hidden, None, None, None, None
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, bias, ctx.temperature)
            d_logits = _residual(logits, logits.logsumexp(-1), targets[rows, None])
            d_logits *= grad[rows, None] / ctx.temperature
            d_weight += d_logits.to(weight.dtype).T @ hidden[rows]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return d_hidden, d_weight.to(weight.dtype), None if d_bias is None else d_bias.to(weight.dtype), None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, (CHUNK_LOGITS_GPU if hidden.is_cuda else CHUNK_LOGITS) // len(weight))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    return float_logits(hidden, weight, bias).div_(temperature)


def _residual(logits: Tensor, normaliser: Tensor, targets: Tensor) -> Tensor:
    """(N, V): one-hot minus softmax, in place of the logits. In float32, so that nothing cancels in bfloat16."""
    residual = logits.sub_(normaliser[:, None]).exp_().neg_()
    return residual.scatter_add_(1, targets, torch.ones_like(targets, dtype=residual.dtype))
