"""A batch read in parts that fit in memory, with the same log-probabilities and gradients as if read at once."""

from __future__ import annotations

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
    lengths = batch.attention.sum(1)
    parts: list[list[int]] = []
    for row in lengths.argsort(descending=True, stable=True).tolist():
        if not parts or (len(parts[-1]) + 1) * int(lengths[parts[-1][0]]) > budget:
            parts.append([])
        parts[-1].append(row)
    return [torch.tensor(part, device=batch.ids.device) for part in parts]


@torch.no_grad()
def logprobs(policy: Policy, batch: TokenBatch, budget: int | None) -> Tensor:
    """``policy.logprobs(batch)``, (B, T), without gradient and never more than ``budget`` tokens at a time."""
    parts = micro_batches(batch, budget)
    if len(parts) == 1:
        return policy.logprobs(batch)
    out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=batch.ids.device)
    for rows in parts:
        part = policy.logprobs(batch.rows(rows))
        out[rows, : part.shape[1]] = part
    return out
