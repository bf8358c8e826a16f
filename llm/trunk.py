"""The lower layers that nothing trains: policy and reference share them, so they are read once.

With ``lora.layers = k`` all but the last k layers of a decoder are the same for every role and for the reference, and
no gradient reaches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn


def frozen_layers(decoder: Any) -> int:
    """How many of the decoder's first layers, after a frozen embedding, hold no adapter and nothing trained.

    0 also for a decoder of which nothing is trained, a reference.
    """
    if len(set(getattr(decoder.config, "layer_types", None) or ["full_attention"])) > 1:
        return 0  # such decoders look a layer's kind up by its place, which `_only` changes
    if _trained(decoder.get_input_embeddings()):
        return 0
    return next((i for i, layer in enumerate(decoder.layers) if _trained(layer)), 0)


@torch.no_grad()
def read_lower(decoder: Any, ids: Tensor, count: int, **settings: Tensor) -> Tensor:
    """What the first ``count`` layers make of right-padded ``ids`` (B, T): (B, T, d).

    ``settings`` are handed to the decoder, here and in :func:`read_upper`.
    """
    found: list[Tensor] = []
    hook = decoder.layers[count - 1].register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        with _only(decoder, slice(0, count)):
            decoder(input_ids=ids, use_cache=False, **settings)
    finally:
        hook.remove()
    return found[0]


def read_upper(decoder: Any, ids: Tensor, lower: Tensor, count: int, **settings: Tensor) -> Tensor:
    """The decoder's last hidden states (B, T, d), given what :func:`read_lower` found.

    The last of the lower layers stands in for all of them and returns that. (Were it a hook that hands it to the layer
    above, a checkpointed layer would not be given it again when the backward pass runs it a second time.)
    """
    last = decoder.layers[count - 1]
    last.forward = lambda *_args, **_settings: lower
    try:
        with _only(decoder, slice(count - 1, None)):
            return decoder(input_ids=ids, use_cache=False, **settings).last_hidden_state
    finally:
        del last.forward


def _trained(module: nn.Module) -> bool:
    return any(isinstance(part, BaseTunerLayer) for part in module.modules()) or any(
        p.requires_grad for p in module.parameters()
    )


@contextmanager
def _only(decoder: Any, which: slice) -> Iterator[None]:
    """Within this context the decoder consists of these layers."""
    whole = decoder.layers
    decoder.layers = whole[which]
    try:
        yield
    finally:
        decoder.layers = whole
