"""Which tokens a token sees: the masks of sampling, where rows of different lengths share a cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slhf.errors import ConfigError

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers, in the words of ``transformers``: that see the whole conversation, or the last so many tokens."""


def kinds(config: Any) -> set[str]:
    """The kinds of a decoder's layers; one whose configuration names none has a single kind."""
    named = getattr(config, "layer_types", None)
    return set(named) if named else {SLIDING if getattr(config, "sliding_window", None) else FULL}


def require_attention(decoder: Any) -> None:
    """Refuse a decoder with layers that keep something else than a key and a value for each token.

    Raises:
        ConfigError: naming the kinds of its layers.
    """
    others = kinds(decoder.config) - {FULL, SLIDING}
    if others:
        raise ConfigError(
            f"{type(decoder).__name__} has layers of the kind {', '.join(sorted(others))}, which TransformersGenerator "
            "does not reproduce; use a model whose layers see the whole conversation or a sliding window of it."
        )


def masks(decoder: Any, positions: Tensor, columns: int) -> Tensor | dict[str, Tensor]:
    """What to add to the attention scores, (B, 1, T, columns), where column p holds a row's token at position p.

    Args:
        decoder: whose; one with layers of both kinds gets a dictionary, by kind.
        positions: (B, T), of the tokens that are read.
        columns: how many columns of the cache they may see.
    """
    config, dtype = decoder.config, decoder.get_input_embeddings().weight.dtype
    column, own = torch.arange(columns, device=positions.device), positions[:, None, :, None]
    hidden = {FULL: column > own}
    if SLIDING in kinds(config):  # a window of w holds the token itself and the w - 1 before it
        hidden[SLIDING] = hidden[FULL] | (column <= own - config.sliding_window)
    added = {
        kind: torch.zeros(hide.shape, dtype=dtype, device=hide.device).masked_fill_(hide, torch.finfo(dtype).min)
        for kind, hide in hidden.items()
    }
    return added if len(kinds(config)) > 1 else added[kinds(config).pop()]
