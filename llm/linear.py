"""The linear layers without overhead: adapters in two products, frozen weights in the processor's own layout.

``peft`` casts activations to float32 and back around each adapter, which costs more than the adapter. Here the
adapter is applied in the dtype of the base layer, its float32 parameters cast when used (what autocast does), and
added in the accumulator of the second product: rounded once. Sampling and training share these lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from slhf import hardware


def lighten(model: nn.Module) -> None:
    """Give every plain LoRA layer of a ``peft`` model the forward pass of this module.

    Layers with more than that (dropout, DoRA, a bias) keep ``peft``'s own.
    """
    for layer in model.modules():
        if type(layer) is LoraLinear:
            # not a forward of its own: that would refer to the layer, which would outlive its model
            layer.__class__ = _LightLinear


class _LightLinear(LoraLinear):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or not active:
            return self.base_layer(x)
        (name,) = active if len(active) == 1 else (None,)
        plain = name is not None and name not in self.lora_variant and not self.merged and not args and not kwargs
        if not plain or self.training or self.lora_B[name].bias is not None:
            return super().forward(x, *args, **kwargs)
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ self.lora_A[name].weight.to(x.dtype).T
        up = self.lora_B[name].weight.to(x.dtype).T
        return torch.addmm(self.base_layer(flat), low, up, alpha=self.scaling[name]).view(*x.shape[:-1], -1)


class FastLinears:
    """While :meth:`on`, frozen linear layers on the CPU multiply by weights in oneDNN's blocked layout.

    Decoding, whose products have few rows, is faster: a plain weight is brought into that layout in every call. It
    takes another copy of the weights, made the first time. Sums may be rounded in another order. Weights in bfloat16
    on a processor without units for it, and everything where there is no oneDNN (Apple silicon, GPUs), stay as they
    are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forwards: list[tuple[Any, Any]] | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within this context, and without gradients."""
        if self.forwards is None:
            self.forwards = [(layer, partial(_blocked, _reorder(layer), layer.bias)) for layer in self._eligible()]
        for layer, forward in self.forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self.forwards:
                del layer.forward

    def _eligible(self) -> list[nn.Linear]:
        if not torch.backends.mkldnn.is_available():
            return []
        formats = [torch.float32]
        if hardware.has_bfloat16_units() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            formats.append(torch.bfloat16)
        return [
            layer
            for layer in self.model.modules()
            if type(layer) is nn.Linear
            and layer.weight.dtype in formats
            and layer.weight.device.type == "cpu"
            and not layer.weight.requires_grad
        ]


def _reorder(layer: nn.Linear) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), TYPICAL_ROWS)


def _blocked(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


TYPICAL_ROWS = 32
"""How many rows oneDNN chooses the layout for; it serves any number."""
