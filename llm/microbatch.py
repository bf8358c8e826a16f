"""A batch read in parts that fit in memory, with the same log-probabilities and gradients as if read at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm.policy import Policy, TokenBatch


def micro_batches(batch: TokenBatch, budget: int | None) -> list[Tensor]:
    """Row indices of each part: at most ``budget`` tokens of rows times longest row, or a single row.

    Rows of like length come together, so that little is padded. A batch that fits is one part, in its own order.
    """
    rows, columns = batch.ids.shape
    if budget is None or rows * columns <= budget:
        return [torch.arange(rows, device=batch.ids.device)]
    parts = by_length(batch.attention.sum(1).tolist(), budget)
    return [torch.tensor(part, device=batch.ids.device) for part in parts]


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of rows in groups of like length, the longest first, each as :func:`micro_batches` says."""
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not parts or (len(parts[-1]) + 1) * lengths[parts[-1][0]] > budget:
            parts.append([])
        parts[-1].append(row)
    return parts


@torch.no_grad()
def logprobs(policy: Policy, batch: TokenBatch, budget: int | None, trunk: Tensor | None = None) -> Tensor:
    """``policy.logprobs(batch, trunk)``, (B, T), without gradient and never more than ``budget`` tokens at a time."""
    parts = micro_batches(batch, budget)
    if len(parts) == 1:
        return policy.logprobs(batch, trunk)
    return _gather([policy.logprobs(*rows_of(batch, trunk, rows)) for rows in parts], parts, batch)


def read_trunk(policy: Policy, batch: TokenBatch, budget: int | None) -> Tensor | None:
    """``policy.trunk(batch)``, (B, T, d), never more than ``budget`` tokens at a time."""
    parts = micro_batches(batch, budget)
    if len(parts) == 1:
        return policy.trunk(batch)
    read = [policy.trunk(batch.rows(rows)) for rows in parts]
    found = [part for part in read if part is not None]
    return _gather(found, parts, batch) if found else None


def rows_of(batch: TokenBatch, trunk: Tensor | None, rows: Tensor) -> tuple[TokenBatch, Tensor | None]:
    """The same rows of a batch and of its trunk."""
    some = batch.rows(rows)
    return some, None if trunk is None else trunk[rows, : some.ids.shape[1]]


def _gather(read: list[Tensor], parts: list[Tensor], batch: TokenBatch) -> Tensor:
    """(B, T, ...): every part's rows where they belong, 0 beyond their length."""
    out = read[0].new_zeros((*batch.ids.shape, *read[0].shape[2:]))
    for rows, part in zip(parts, read, strict=True):
        out[rows, : part.shape[1]] = part
    return out
