"""The shapes of language models: all that memory and time estimates need, from a ``config.json`` or a small table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm import embedded
from slhf.errors import MissingResource
from slhf.text import read_text


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama family (RMSNorm, rotary positions, gated MLP); d, L, ... in the estimates."""

    hidden: int
    """d, width of the residual stream."""
    layers: int
    """L."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    intermediate: int
    """f, width of the MLP."""
    vocabulary: int
    """V."""
    tied: bool
    """Whether the output layer is the input embedding."""
    biased: bool
    """Whether the query, key and value projections have a bias (Qwen2)."""
    head_width: int
    """Width of one head."""

    def modules(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear module of a layer."""
        d, f = self.hidden, self.intermediate
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = {"q_proj": (d, queries), "k_proj": (d, keys), "v_proj": (d, keys), "o_proj": (queries, d)}
        return {**attention, "gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)}

    @property
    def layer_parameters(self) -> int:
        """Of one layer: its linear modules, their biases and two norms."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_width if self.biased else 0
        return sum(inputs * outputs for inputs, outputs in self.modules().values()) + bias + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """V d, of the input embedding, and of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """N: everything, the final norm included."""
        tables = 1 if self.tied else 2
        return tables * self.embedding_parameters + self.layers * self.layer_parameters + self.hidden

    def adapter_parameters(self, rank: int, modules: Sequence[str], layers: int | None) -> int:
        """Of one LoRA adapter: r (inputs + outputs) for each adapted module.

        Raises:
            KeyError: a module that a layer does not have.
        """
        sizes = self.modules()
        return rank * sum(sum(sizes[name]) for name in modules) * (self.layers if layers is None else layers)


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, tied: bool) -> Shape:
    return Shape(hidden, layers, heads, kv_heads, intermediate, vocabulary, tied, True, hidden // heads)


HUB: dict[str, Shape] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 30, 9, 3, 1536, 49_152, True, False, 64),
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen(896, 24, 14, 2, 4_864, 151_936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen(1_536, 28, 12, 2, 8_960, 151_936, True),
    "Qwen/Qwen2.5-3B-Instruct": _qwen(2_048, 36, 16, 2, 11_008, 151_936, True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen(3_584, 28, 28, 4, 18_944, 152_064, False),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4_096, 32, 32, 8, 14_336, 128_256, False, False, 128),
    "allenai/Llama-3.1-Tulu-3-8B-SFT": Shape(4_096, 32, 32, 8, 14_336, 128_264, False, False, 128),
}
"""Hub models by id, from each model's ``config.json`` at huggingface.co/ID (also in the reports arXiv 2412.15115,
2407.21783, 2502.02737). The models of the same name without ``-Instruct`` have the same shapes."""


def shape_of(name: str) -> Shape:
    """The shape of a model: "embedded", a directory with a ``config.json``, or a hub id of the table. Never online.

    Raises:
        MissingResource: the name is none of them, or the configuration is of another family.
    """
    if name in HUB:
        return HUB[name]
    path = (embedded.model_path() if name == "embedded" else Path(name)) / "config.json"
    if not path.is_file():
        raise MissingResource(
            f"The shape of the model {name!r} is not known offline. Give a directory that holds its config.json, or "
            f"one of: embedded, {', '.join(HUB)}."
        )
    return from_config(json.loads(read_text(path)), str(path))


def from_config(config: Mapping[str, Any], where: str) -> Shape:
    """The shape in a ``config.json``.

    Raises:
        MissingResource: it is not of the Llama or Qwen2 family.
    """
    family = config.get("model_type")
    if family not in ("llama", "qwen2"):
        raise MissingResource(f"{where} describes a {family!r} model; estimates know the families llama and qwen2.")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return Shape(
        hidden=hidden,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        biased=family == "qwen2",
        head_width=config.get("head_dim") or hidden // heads,
    )
