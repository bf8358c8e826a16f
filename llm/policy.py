"""One base model that plays every role: the policy is the base with LoRA adapters, the reference without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm import embedded
from llm.chat import Chat, Role
from slhf.errors import ConfigError, InvalidParameter, MissingResource, require_at_least

Segment = tuple[list[int], Role | None]
"""Token ids and who chose them; ``None`` for text nobody is credited with (prompts, turns)."""


def default_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class LoRA:
    """Which low-rank adapters to train."""

    rank: int = 16
    """Rank r of each adapter."""
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    layers: int | None = None
    """Adapt only the last so many transformer layers (the backward pass stops below them); null for all."""
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear modules to adapt; the default is every one of a Llama or Qwen layer."""

    def __post_init__(self) -> None:
        require_at_least(self, rank=1)


@dataclass(frozen=True)
class TokenBatch:
    """Conversations of several segments, right-padded, shape (batch, length).

    ``owners[role]`` marks the tokens which that role chose, including its end-of-sequence token.
    """

    ids: Tensor
    attention: Tensor
    owners: dict[Role, Tensor]

    @classmethod
    def pack(cls, conversations: Sequence[Sequence[Segment]], pad: int, device: torch.device | str) -> TokenBatch:
        """Concatenate each conversation's segments and pad to the longest."""
        flat = [[token for ids, _ in segments for token in ids] for segments in conversations]
        length = max(map(len, flat))
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in flat])
        attention = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in flat])
        owners: dict[Role, Tensor] = {}
        for b, segments in enumerate(conversations):
            start = 0
            for tokens, role in segments:
                if role is not None:
                    mask = owners.setdefault(role, torch.zeros_like(ids, dtype=torch.bool))
                    mask[b, start : start + len(tokens)] = True
                start += len(tokens)
        return cls(ids.to(device), attention.to(device), {role: mask.to(device) for role, mask in owners.items()})

    def rows(self, index: Tensor) -> TokenBatch:
        """Some of the conversations, padded no further than the longest of them."""
        length = int(self.attention[index].sum(1).max())
        owners = {role: mask[index, :length] for role, mask in self.owners.items()}
        return TokenBatch(self.ids[index, :length], self.attention[index, :length], owners)

    @property
    def scored(self) -> Tensor:
        """(batch, length): tokens that some role chose."""
        return torch.stack(list(self.owners.values())).any(0)


class Policy:
    """A causal language model with a trainable adapter, its tokenizer and chat pieces.

    Attributes:
        model: the ``PeftModel``.
        chat: the cut-up chat template.
        temperature: the sampling temperature; every log-probability is taken at it, so that the policy that
            is trained is the one that is sampled.
    """

    def __init__(self, model: PeftModel, tokenizer: Any, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise InvalidParameter(f"The sampling temperature must be positive, got {temperature}.")
        self.model = model.eval()  # no dropout: the reference and the policy differ by the adapter alone
        self.tokenizer = tokenizer
        self.chat = Chat(tokenizer)
        self.temperature = temperature
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.chat.eos
        causal = model.get_base_model()
        self.decoder, self.head = causal.get_decoder(), causal.get_output_embeddings()
        self._check_head(causal)

    @classmethod
    def load(
        cls,
        name: str,
        lora: LoRA | None = None,
        adapter: Path | None = None,
        temperature: float = 1.0,
        dtype: str = "bfloat16",
        device: str = "cpu",
        seed: int = 0,
    ) -> Policy:
        """The model ``name`` ("embedded", a directory or a hub id) with a new adapter or a trained one.

        Args:
            name: which base model.
            lora: the shape of a new adapter (it starts as the identity: policy = reference).
            adapter: directory of a trained adapter to load instead of making a new one.
            temperature: the sampling temperature.
            dtype: of the base weights; adapters are float32.
            device: where to put it.
            seed: of the new adapter's random half.

        Raises:
            MissingResource: the model is neither here nor to be had from the hub.
        """
        path = str(embedded.model_path()) if name == "embedded" else name
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            base = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(device)
        except (OSError, ValueError) as error:
            raise MissingResource(
                f"Cannot load the model {name!r}: {error} "
                'Give "embedded", a directory with a saved model, or a hub id while online.'
            ) from error
        torch.manual_seed(seed)  # peft draws a new adapter from the global generator
        try:
            if adapter is not None:
                model = PeftModel.from_pretrained(base, str(adapter), is_trainable=True)
            else:
                model = get_peft_model(base, lora_config(base, lora or LoRA()))
        except ValueError as error:
            raise ConfigError(f"The model {name!r} does not take the adapter {adapter or lora}: {error}") from error
        return cls(model, tokenizer, temperature)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the policy is its reference: the base model, adapters off."""
        with self.model.disable_adapter():
            yield

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The adapter's parameters by name."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """log pi(token | all before it) of the scored tokens, float32, shape (batch, length), 0 elsewhere.

        One causal forward serves all roles. Only scored positions reach the vocabulary projection.
        """
        hidden = self.decoder(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        chosen = batch.scored[:, 1:]
        logits = self.head(hidden[:, :-1][chosen]).float() / self.temperature
        picked = logits.gather(-1, batch.ids[:, 1:][chosen].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=self.device)
        out[:, 1:][chosen] = picked
        return out

    def save(self, directory: Path) -> None:
        """Write the adapter as safetensors; ``peft.PeftModel.from_pretrained`` loads it."""
        self.model.save_pretrained(str(directory), safe_serialization=True)

    def _check_head(self, causal: Any) -> None:
        """The model's own logits must be head(decoder(.)): some architectures rescale or cap them."""
        ids = torch.tensor([[self.chat.eos, self.chat.eos]], device=self.device)
        with torch.no_grad():
            ours, theirs = self.head(self.decoder(input_ids=ids).last_hidden_state), causal(input_ids=ids).logits
        if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"{type(causal).__name__} changes its logits after the output layer (scaling or soft-capping), "
                "which Policy.logprobs does not reproduce; use another architecture."
            )


def lora_config(base: Any, lora: LoRA) -> LoraConfig:
    """The ``peft`` form of ``lora`` for this base model.

    Raises:
        ConfigError: more layers are asked for than the model has.
    """
    depth = base.config.num_hidden_layers
    if lora.layers is not None and not 1 <= lora.layers <= depth:
        raise ConfigError(f"lora.layers = {lora.layers}, but the model has {depth} layers; give 1 to {depth} or null.")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.modules),
        layers_to_transform=None if lora.layers is None else list(range(depth - lora.layers, depth)),
    )
