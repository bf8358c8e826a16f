"""K reward models on one base model: a LoRA adapter and a linear score for each attribute, all read in one pass.

r_k(x, y) = score_k . h_k, where h_k is the last hidden state of the conversation's last token under adapter k. What is
the same for all heads is computed once: the layers below the first adapted one, and every common beginning of texts
(``llm.prefix_tree``). Above, the heads are K copies of the batch: the base's weights multiply all of them at once, the
adapters' low-rank products are batched matrix products, and the last layer's feed-forward part, three quarters of its
cost, runs on last tokens alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from llm.chat import render
from llm.data import Message
from llm.embedded import from_pretrained
from llm.lora import LoRA
from llm.precision import Dtype, resolve
from llm.prefix_tree import Tree, TreeBatch, plant
from llm.trunk import read_lower, read_upper
from slhf.errors import ConfigError, MissingResource
from slhf.runs import derive_seed, write_directory

FILE = "ensemble.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SIMILAR = 0.75
"""A batch takes no tree smaller than this share of its largest: padding costs as much as text."""


class RewardHeads:
    """The base model, its tokenizer, and the adapters and scores of K attributes.

    Attributes:
        attributes: the K names.
        signs: by attribute, +1, or -1 where less of it is better; rewards are multiplied by it.
        low, up, score: the trained parameters, float32. By name of the adapted linear module, ``low`` (K, r, inputs)
            and ``up`` (K, outputs, r); ``score`` (K, width).
        longest: the most tokens of a text.

    Raises:
        ConfigError: the model does not take such heads, or a name of an attribute cannot be a folder's.
    """

    def __init__(
        self, base: str, decoder: Any, tokenizer: Any, attributes: Sequence[str], lora: LoRA, signs: Sequence[float]
    ) -> None:
        if tokenizer.chat_template is None:
            raise ConfigError(f"The tokenizer of {base!r} has no chat template; use an instruction-tuned model.")
        if set(getattr(decoder.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ConfigError(f"{base!r} has layers that do not see the whole text, which reward heads need.")
        bad = [name for name in attributes if not PLAIN_NAME.fullmatch(name)]
        if bad or not attributes or len(set(attributes)) < len(attributes):
            raise ConfigError(
                f"Attributes {list(attributes)}: give at least one; names are distinct, of letters, digits, - and _."
            )
        self.base, self.lora, self.tokenizer = base, lora, tokenizer
        self.attributes, self.signs = tuple(attributes), tuple(map(float, signs))
        self.decoder = decoder.requires_grad_(False).eval()
        self.adapted = adapted_modules(decoder, lora)
        self.first = 0 if lora.layers is None else len(decoder.layers) - lora.layers
        self.longest: int = decoder.config.max_position_embeddings
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        count, device = len(attributes), self.device
        self.low = {n: torch.zeros(count, lora.rank, m.in_features, device=device) for n, m in self.adapted.items()}
        self.up = {n: torch.zeros(count, m.out_features, lora.rank, device=device) for n, m in self.adapted.items()}
        self.score = torch.zeros(count, decoder.config.hidden_size, device=device)
        for name, module in self.adapted.items():
            module.forward = partial(_adapted, module, self.low[name], self.up[name], lora.alpha / lora.rank)  # type: ignore[method-assign]

    @classmethod
    def create(
        cls, base: str, attributes: Sequence[str], lora: LoRA, dtype: Dtype, device: str, seed: int
    ) -> RewardHeads:
        """New heads, of which every reward is 0, on the model ``base`` ("embedded", a directory or a hub id).

        A head's random start is addressed by its name: it is the same whichever others are trained beside it.

        Raises:
            MissingResource: the model is neither here nor to be had from the hub.
        """
        decoder, tokenizer = _load_base(base, dtype, device)
        heads = cls(base, decoder, tokenizer, attributes, lora, [1.0] * len(attributes))
        for k, attribute in enumerate(attributes):
            rng = torch.Generator().manual_seed(derive_seed(seed, "reward head", attribute))
            for low in heads.low.values():
                bound = low.shape[-1] ** -0.5
                low[k].copy_((2 * torch.rand(low[k].shape, generator=rng) - 1) * bound)
        return heads

    @classmethod
    def load(cls, directory: Path, device: str, dtype: Dtype = "auto") -> RewardHeads:
        """What :meth:`save` wrote, with the base's weights in ``dtype`` (see ``llm.precision``).

        Raises:
            MissingResource: there is no ensemble, or its base model is not to be had.
            ConfigError: the folder is not as :meth:`save` leaves it.
        """
        path = directory / FILE
        if not path.is_file():
            raise MissingResource(
                f"There is no reward ensemble in {directory} (no file {FILE}). "
                "Train one: python experiments/train_reward.py --help"
            )
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            lora = LoRA(**{**saved["lora"], "modules": tuple(saved["lora"]["modules"])})
            base, attributes, signs = (saved[key] for key in ("base", "attributes", "signs"))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not what training wrote: {type(error).__name__}: {error}.") from error
        if len(signs) != len(attributes) or not set(signs) <= {1, -1}:
            raise ConfigError(f"{path}: signs = {signs}; give 1 or -1 for each of {attributes}.")
        heads = cls(base, *_load_base(base, dtype, device), attributes, lora, signs)
        for k, attribute in enumerate(attributes):
            heads._take(k, directory / attribute)
        return heads

    def save(self, directory: Path) -> None:
        """A folder for each attribute, a sequence-classification adapter as ``peft`` loads it, and ``ensemble.json``.

        All of it is there or none.
        """
        lora = {**vars(self.lora), "modules": list(self.lora.modules)}
        record = {
            "base": self.base,
            "attributes": list(self.attributes),
            "signs": list(self.signs),
            "lora": lora,
        }

        def fill(path: Path) -> None:
            (path / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for k, attribute in enumerate(self.attributes):
                (path / attribute).mkdir()
                self._peft_config().save_pretrained(str(path / attribute))
                tensors = {key: x[k].contiguous().cpu() for key, x in self._by_peft_name().items()}
                save_file(tensors, path / attribute / "adapter_model.safetensors", metadata={"format": "pt"})

        write_directory(directory, fill)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.decoder.parameters()).device

    def parameters(self) -> dict[str, Tensor]:
        """All that is trained by name, float32, the head in the first place of each shape."""
        low = {f"{name}.low": x for name, x in self.low.items()}
        return {**low, **{f"{name}.up": x for name, x in self.up.items()}, "score": self.score}

    def encode(self, conversation: Sequence[Message], answer: str) -> list[int]:
        """Token ids of the conversation, which ends with a user's turn, and the answer as its last turn."""
        messages = [*conversation, {"role": "assistant", "content": answer}]
        return self.tokenizer(render(self.tokenizer, messages), add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def rewards(self, texts: Sequence[Sequence[int]], budget: int, progress: str | None = None) -> Tensor:
        """r_k of each text, float32, shape (K, M), reading at most ``budget`` tokens at a time, padding included.

        ``progress`` is the title of a progress bar; None for no bar.
        """
        out = torch.empty(len(self.attributes), len(texts))
        parts = list(batches(plant(texts), budget))
        for part in tqdm(parts, desc=progress, unit="batch", disable=progress is None):
            batch = TreeBatch.pack(part, self.pad, self.device)
            out[:, batch.numbers] = self.read(batch).cpu()
        return out

    @torch.no_grad()
    def trunk(self, batch: TreeBatch) -> Tensor | None:
        """What the layers below the first adapted one make of the batch, (N, T, width); None if all are adapted."""
        settings = _settings(batch, self.decoder.dtype)
        return read_lower(self.decoder, batch.ids, self.first, **settings) if self.first else None

    def read(self, batch: TreeBatch, trunk: Tensor | None = None) -> Tensor:
        """r_k of each text of the batch, in the order of ``batch.numbers``, float32, (K, M), differentiable.

        ``trunk`` is what :meth:`trunk` returned for this batch, if it is known.
        """
        trunk = self.trunk(batch) if trunk is None else trunk
        count, settings = len(self.attributes), _settings(batch, self.decoder.dtype)
        ends = torch.zeros_like(batch.ids, dtype=torch.bool)
        ends[batch.rows, batch.ends] = True
        many = {key: _copies(x, count) for key, x in settings.items()}
        ids = _copies(batch.ids, count)
        with _only_at(_copies(ends, count), self.decoder.layers[-1]):
            if trunk is not None:
                hidden = read_upper(self.decoder, ids, _copies(trunk, count), self.first, **many)
            else:
                hidden = self.decoder(input_ids=ids, use_cache=False, **many).last_hidden_state
        last = hidden.view(count, *batch.ids.shape, -1)[:, batch.rows, batch.ends].float()
        signs = torch.tensor(self.signs, device=last.device)[:, None]
        return signs * (last * self.score[:, None]).sum(-1)

    def _take(self, k: int, folder: Path) -> None:
        """Load head k from the folder of its attribute."""
        path = folder / "adapter_model.safetensors"
        if not path.is_file():
            raise ConfigError(f"The reward ensemble lacks {path}; train it again.")
        ours = self._by_peft_name()
        try:
            saved = load_file(path)
        except SafetensorError as error:
            raise ConfigError(f"{path} cannot be read: {error}. Train the ensemble again.") from error
        if {n: x.shape for n, x in saved.items()} != {n: x.shape[1:] for n, x in ours.items()}:
            raise ConfigError(f"{path} does not fit {self.base!r} with {self.lora}; was another base model used?")
        for name, x in ours.items():
            x[k].copy_(saved[name])

    def _by_peft_name(self) -> dict[str, Tensor]:
        """The parameters (K, ...) under the names that ``peft`` gives one head's."""
        prefix = "base_model.model."
        low = {f"{prefix}model.{name}.lora_A.weight": x for name, x in self.low.items()}
        up = {f"{prefix}model.{name}.lora_B.weight": x for name, x in self.up.items()}
        return {**low, **up, f"{prefix}score.weight": self.score[:, None]}

    def _peft_config(self) -> LoraConfig:
        layers = None if self.lora.layers is None else list(range(self.first, len(self.decoder.layers)))
        return LoraConfig(
            task_type="SEQ_CLS",
            base_model_name_or_path=self.base,
            inference_mode=True,
            r=self.lora.rank,
            lora_alpha=self.lora.alpha,
            target_modules=list(self.lora.modules),
            layers_to_transform=layers,
            modules_to_save=["score"],
        )


def adapted_modules(decoder: Any, lora: LoRA) -> dict[str, nn.Linear]:
    """The linear modules that ``lora`` names, by their names in the decoder.

    Raises:
        ConfigError: there is none of a name, or the model has fewer layers.
    """
    depth = len(decoder.layers)
    if lora.layers is not None and not 1 <= lora.layers <= depth:
        raise ConfigError(f"lora.layers = {lora.layers}, but the model has {depth} layers; give 1 to {depth} or null.")
    found: dict[str, nn.Linear] = {}
    for i in range(0 if lora.layers is None else depth - lora.layers, depth):
        for name, module in decoder.layers[i].named_modules():
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in lora.modules:
                found[f"layers.{i}.{name}"] = module
    missing = set(lora.modules) - {name.rpartition(".")[2] for name in found}
    if missing:
        raise ConfigError(f"{type(decoder).__name__} has no linear module {', '.join(sorted(missing))} to adapt.")
    return found


def batches(trees: Sequence[Tree], budget: int) -> Iterator[list[Tree]]:
    """Trees of similar size together, at most ``budget`` tokens with padding, or a single tree."""
    part: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        largest = len(part[0].tokens) if part else 0
        if part and (largest * (len(part) + 1) > budget or len(tree.tokens) < SIMILAR * largest):
            yield part
            part = []
        part.append(tree)
    if part:
        yield part


def _settings(batch: TreeBatch, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"attention_mask": batch.mask(dtype), "position_ids": batch.positions}


def _copies(x: Tensor, count: int) -> Tensor:
    """(count * B, ...): the whole batch again and again, so that row k * B + b is head k's row b."""
    return x.repeat(count, *[1] * (x.dim() - 1))


def _adapted(module: nn.Linear, low: Tensor, up: Tensor, scaling: float, x: Tensor) -> Tensor:
    """W x + scaling * up_k low_k x for K heads' equal shares of the rows of ``x`` (K * B, ..., inputs)."""
    flat = x.reshape(len(low), -1, x.shape[-1])
    product = torch.bmm(flat, low.to(x.dtype).mT)
    plain = nn.functional.linear(flat, module.weight, module.bias)
    return torch.baddbmm(plain, product, up.to(x.dtype).mT, alpha=scaling).view(*x.shape[:-1], -1)


@contextmanager
def _only_at(which: Tensor, layer: Any) -> Iterator[None]:
    """Within this context the layer's feed-forward part acts on the tokens ``which`` (B, T) marks, and is 0 elsewhere.

    For the last layer, of which no other token is looked at. A model that names the part otherwise computes all of it.
    """
    part = getattr(layer, "mlp", None)
    if part is None:
        yield
        return
    whole = part.forward

    def forward(x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_put((which,), whole(x[which]))

    part.forward = forward
    try:
        yield
    finally:
        del part.forward


def _load_base(base: str, dtype: Dtype, device: str) -> tuple[Any, Any]:
    weights = getattr(torch, resolve(dtype, device))
    decoder = from_pretrained(AutoModel, base, dtype=weights).to(device)
    return decoder, from_pretrained(AutoTokenizer, base)
