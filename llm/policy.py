"""One model that plays every role.

With adapters (the default) the base is shared: the policy is the base with a LoRA adapter, the reference the
base without one, or with a frozen copy of the adapter that training started from. The roles share one adapter
(``sharing="one"``) or have one each (``"two"``). Without adapters all weights are trained, and the reference
is a frozen copy of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.chat import Chat, Role
from llm.embedded import from_pretrained
from llm.linear import lighten
from llm.logprobs import token_logprobs
from llm.lora import LoRA, Sharing
from llm.precision import Dtype, resolve
from llm.trunk import frozen_layers, read_lower, read_upper
from slhf.errors import ConfigError, InvalidParameter

Segment = tuple[list[int], Role | None]
"""Token ids and who chose them; ``None`` for text nobody is credited with (prompts, turns)."""

OWN, FOLLOWER, REFERENCE = "default", "follower", "reference"
"""Names of adapters: of the Leader (and of the Follower, where they share it), of the Follower, and of the reference
when training started from an adapter; without one, REFERENCE stands for the untouched base."""


def default_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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
    """A causal language model, what is trained of it, its reference, its tokenizer and chat pieces.

    Attributes:
        model: the ``PeftModel``; for full fine-tuning the ``transformers`` model itself.
        decoder, head: the parts of whoever is active: the policy, or in :meth:`reference` its reference.
        sharing: "one" if one set of parameters plays both roles, "two" if each role has its own adapter.
        adapter: the name of the adapter that is active: OWN, FOLLOWER or REFERENCE.
        chat: the cut-up chat template.
        temperature: the sampling temperature; every log-probability is taken at it, so that the policy that
            is trained is the one that is sampled.
        steps: how many steps of an optimiser this object has seen; see ``llm.optimise.make_optimizer``.
        scored: whether it may be asked for log-probabilities; else only for answers, see ``llm.plain_generator``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        temperature: float = 1.0,
        sharing: Sharing = "one",
        frozen: Any = None,
        scored: bool = True,
    ) -> None:
        if not temperature > 0:
            raise InvalidParameter(f"The sampling temperature must be positive, got {temperature}.")
        lighten(model)
        self.model = model.eval()  # no dropout: the reference and the policy differ by what is trained alone
        self.tokenizer = tokenizer
        self._frozen = frozen
        causal = self.model if self.full else model.get_base_model()
        self.chat = Chat(tokenizer, ends(causal))
        self.temperature, self.steps = temperature, 0
        self.sharing = sharing
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.chat.eos
        self._names = self._trainable_names()
        self._adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self.adapter = ""
        self._activate(OWN)
        self.scored = scored
        if scored:
            self._check_head(causal)

    @classmethod
    def load(
        cls,
        name: str,
        lora: LoRA | None = LoRA(),
        adapter: Path | None = None,
        temperature: float = 1.0,
        dtype: Dtype = "auto",
        device: str = "cpu",
        seed: int = 0,
        sharing: Sharing = "one",
        start_from: Path | None = None,
    ) -> Policy:
        """The model ``name`` ("embedded", a directory or a hub id), to be trained anew or further.

        Args:
            name: which base model.
            lora: the shape of a new adapter (it starts as the identity: policy = reference); None trains all
                weights, in float32.
            adapter: a directory that :meth:`save` wrote, to go on from; the reference is what it was.
            temperature: the sampling temperature.
            dtype: of the base weights (see ``llm.precision``); adapters are float32.
            device: where to put it.
            seed: of the new adapters' random halves.
            sharing: one adapter for both roles, or one each.
            start_from: directory of a trained adapter. Training starts from it, and its frozen copy is the
                reference. Give it again when going on from ``adapter``.

        Raises:
            MissingResource: the model or an adapter is neither here nor to be had from the hub.
            ConfigError: an adapter does not fit the model or the other arguments.
        """
        if lora is None and (dtype == "bfloat16" or sharing == "two" or start_from is not None):
            raise ConfigError(
                f'Full fine-tuning (lora: null) needs dtype "float32" (small updates vanish in {dtype} weights), '
                'sharing "one" (two roles would need two whole models) and no start_from (give that model\'s '
                f"directory as name); got dtype {dtype!r}, sharing {sharing!r}, start_from {start_from}."
            )
        weights = "float32" if lora is None else resolve(dtype, device)
        base = from_pretrained(AutoModelForCausalLM, name, dtype=getattr(torch, weights)).to(device)
        tokenizer = from_pretrained(AutoTokenizer, name)
        if lora is None:
            frozen = copy.deepcopy(base).requires_grad_(False).eval()
            if adapter is not None:
                base = from_pretrained(AutoModelForCausalLM, str(adapter), dtype=torch.float32).to(device)
            return cls(base, tokenizer, temperature, "one", frozen)
        torch.manual_seed(seed)  # peft draws a new adapter from the global generator
        return cls(_with_adapters(base, lora, adapter, start_from, sharing), tokenizer, temperature, sharing)

    @classmethod
    def as_is(
        cls,
        name: str,
        adapter: Path | None = None,
        temperature: float = 1.0,
        dtype: Dtype = "auto",
        device: str = "cpu",
    ) -> Policy:
        """A model to be sampled and not trained: its own reference, with any ``adapter`` merged into its weights.

        It may be of any architecture; it is not scored (``scored`` is False).

        Raises:
            MissingResource, ConfigError: as :func:`merged` does.
        """
        model = merged(name, adapter, resolve(dtype, device)).to(device)
        return cls(model, from_pretrained(AutoTokenizer, name), temperature, "one", model, scored=False)

    @property
    def full(self) -> bool:
        """Whether all weights are trained, without adapters."""
        return self._frozen is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this context the policy is its reference, for every role."""
        with self.active(REFERENCE):
            yield

    @contextmanager
    def acting(self, role: Role) -> Iterator[None]:
        """Within this context the policy plays ``role``; in :meth:`reference`, which has no roles, it stays that."""
        with self.active(REFERENCE if self.adapter == REFERENCE else self.adapter_of(role)):
            yield

    def adapter_of(self, role: Role) -> str:
        """The name of the adapter that plays ``role``."""
        return FOLLOWER if role == "follower" and self.sharing == "two" else OWN

    def trainable(self, role: Role | None = None) -> list[tuple[str, torch.nn.Parameter]]:
        """The trained parameters by name: all, or those that play ``role``."""
        names = self._names[self.adapter_of(role)] if role else set().union(*self._names.values())
        return [(name, p) for name, p in self.model.named_parameters() if name in names]

    def parameter_groups(self, follower_rate: float) -> list[dict[str, Any]]:
        """For the optimiser: the Leader's (or shared) parameters, and the Follower's where it has its own.

        ``factor`` is what a group's learning rate is multiplied with: ``follower_rate`` for the Follower's.
        """
        groups = [{"params": [p for _, p in self.trainable("leader")], "factor": 1.0}]
        if self.sharing == "two":
            groups.append({"params": [p for _, p in self.trainable("follower")], "factor": follower_rate})
        return groups

    def trunk(self, batch: TokenBatch) -> Tensor | None:
        """What the layers below the first adapted one make of the batch, (batch, length, width); None without such.

        It is the same for all roles and the reference; given to :meth:`logprobs`, it is not computed again.
        """
        count = frozen_layers(self.decoder)
        return read_lower(self.decoder, batch.ids, count) if count else None

    def logprobs(self, batch: TokenBatch, trunk: Tensor | None = None) -> Tensor:
        """log pi(token | all before it) of the scored tokens, float32, shape (batch, length), 0 elsewhere.

        One causal forward serves all roles that share an adapter. With ``sharing="two"`` each role reads the
        rows in which it has tokens; a role's log-probabilities carry gradient to its own adapter only.

        Args:
            batch: the conversations.
            trunk: what :meth:`trunk` returned for this batch, or the same rows of it.
        """
        if trunk is None:
            trunk = self.trunk(batch)
        elif trunk.shape[:2] != batch.ids.shape:
            raise ValueError(f"The trunk of shape {tuple(trunk.shape)} is not of this batch, {tuple(batch.ids.shape)}.")
        if self.sharing == "one" or self.adapter == REFERENCE:
            return self._score(batch, batch.scored, trunk)
        out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=self.device)
        for role, mask in batch.owners.items():
            index = mask.any(1).nonzero().squeeze(1)
            if len(index):
                own = batch.rows(index)
                lower = None if trunk is None else trunk[index, : own.ids.shape[1]]
                with self.acting(role):
                    scored = self._score(own, own.owners[role], lower)
                out = out.index_add(0, index, pad(scored, (0, out.shape[1] - scored.shape[1])))
        return out

    def save(self, directory: Path) -> None:
        """Write what is trained as safetensors.

        ``peft.PeftModel.from_pretrained`` loads an adapter (the Follower's own is in the folder "follower"),
        ``transformers`` a fully fine-tuned model, with its tokenizer and the tokens that end its answers.
        """
        if self.full:
            self.model.generation_config.eos_token_id = sorted(self.chat.ends)
            self.model.save_pretrained(str(directory))
            self.tokenizer.save_pretrained(str(directory))
        else:
            # the embedding is never trained; left to itself, peft would ask the hub whether it was resized
            self.model.save_pretrained(str(directory), selected_adapters=list(self._names), save_embedding_layers=False)

    def _score(self, batch: TokenBatch, chosen: Tensor, trunk: Tensor | None) -> Tensor:
        """(batch, length): log-probabilities of the chosen tokens under whoever is active, 0 elsewhere.

        Only chosen positions reach the vocabulary projection. There is no attention mask: with padding on the
        right, no token that counts sees any.
        """
        if trunk is None:
            hidden = self.decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
        else:
            hidden = read_upper(self.decoder, batch.ids, trunk, frozen_layers(self.decoder))
        chosen = chosen[:, 1:]
        picked = token_logprobs(
            hidden[:, :-1][chosen], self.head.weight, self.head.bias, batch.ids[:, 1:][chosen], self.temperature
        )
        out = torch.zeros(batch.ids.shape, dtype=torch.float32, device=self.device)
        out[:, 1:][chosen] = picked
        return out

    def _trainable_names(self) -> dict[str, set[str]]:
        """By adapter, the names of what is trained. Names, because sharding replaces the parameters themselves."""
        if self.full:
            return {OWN: {name for name, _ in self.model.named_parameters()}}
        names = {}
        for adapter in (OWN, FOLLOWER) if self.sharing == "two" else (OWN,):
            self.model.set_adapter(adapter)
            names[adapter] = {name for name, p in self.model.named_parameters() if p.requires_grad}
        for name, p in self.model.named_parameters():  # of all adapters together, whichever is active
            p.requires_grad_(name in set().union(*names.values()))
        return names

    @contextmanager
    def active(self, adapter: str) -> Iterator[None]:
        """Within this context the adapter of that name (OWN, FOLLOWER or REFERENCE) is the one that computes."""
        before = self.adapter
        self._activate(adapter)
        try:
            yield
        finally:
            self._activate(before)

    def _activate(self, adapter: str) -> None:
        """Make ``adapter`` the one that computes.

        A mixture does so twice for every token. ``peft``'s own methods walk all modules and all parameters, and toggle
        requires_grad of what is trained; so the layers' flags are set here.
        """
        if adapter == self.adapter:
            return
        if self.full:
            causal = self._frozen if adapter == REFERENCE else self.model
        else:
            causal = self.model.get_base_model()
            off = adapter == REFERENCE and REFERENCE not in self.model.peft_config
            for layer in self._adapted:
                layer._disable_adapters = off
                if not off:
                    layer._active_adapter = [adapter]
        self.decoder, self.head = causal.get_decoder(), causal.get_output_embeddings()
        self.adapter = adapter

    def _check_head(self, causal: Any) -> None:
        """The model's own logits must be head(decoder(.)): some architectures rescale or cap them."""
        ids = torch.tensor([[self.chat.eos, self.chat.eos]], device=self.device)
        with torch.no_grad():
            ours, theirs = self.head(self.decoder(input_ids=ids).last_hidden_state), causal(input_ids=ids).logits
        if type(self.head) is not torch.nn.Linear:
            raise ConfigError(
                f"The output layer is a {type(self.head).__name__}; Policy.logprobs needs a plain linear layer. "
                "Leave it out of lora.modules."
            )
        if not torch.allclose(ours.float(), theirs.float(), rtol=1e-3, atol=1e-3):
            raise ConfigError(
                f"{type(causal).__name__} changes its logits after the output layer (scaling or soft-capping), "
                "which Policy.logprobs does not reproduce; use another architecture."
            )


def merged(name: str, adapter: Path | None, dtype: str) -> Any:
    """The ``transformers`` model ``name``; with the update of an adapter, if given, added to its weights in float32.

    In float32 it computes what base and adapter do, up to rounding; in bfloat16 updates smaller than the last digit
    of a weight are lost.

    Raises:
        MissingResource: the model is neither here nor to be had from the hub.
        ConfigError: the adapter does not fit the model.
    """
    if adapter is None:
        return from_pretrained(AutoModelForCausalLM, name, dtype=getattr(torch, dtype))
    base = from_pretrained(AutoModelForCausalLM, name, dtype=torch.float32)
    require_safetensors(adapter)
    try:
        model = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The model {name!r} does not take the adapter {adapter}: {error}") from error
    return model.to(getattr(torch, dtype))


def ends(causal: Any) -> list[int]:
    """The tokens with which a model's own generation settings end a sequence."""
    named = getattr(causal.generation_config, "eos_token_id", None)
    if named is None:
        return []
    return named if isinstance(named, list) else [named]


def require_safetensors(adapter: Path) -> None:
    """Refuse an adapter in another format, before ``peft`` reads a pickled one or looks for it on the hub.

    Raises:
        ConfigError: ``adapter`` does not hold the file that :meth:`Policy.save` writes.
    """
    if not (adapter / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ConfigError(
            f"{adapter} holds no adapter in safetensors format ({SAFETENSORS_WEIGHTS_NAME}). Pickled weights (.bin), "
            "which can run code as they are read, are not read; where you trust them, load them with peft and save "
            "them again."
        )


def _with_adapters(base: Any, lora: LoRA, adapter: Path | None, start_from: Path | None, sharing: Sharing) -> PeftModel:
    """The base with an adapter for each role and, where training starts from one, for the reference."""
    shape = lora_config(base, lora)
    sources: dict[str, Path | None] = {OWN: adapter or start_from}
    if sharing == "two":  # both roles start from the same adapter
        sources[FOLLOWER] = start_from if adapter is None else adapter / FOLLOWER
    if start_from is not None:
        sources[REFERENCE] = start_from
    model: Any = None
    for name, source in sources.items():
        if source is not None:
            require_safetensors(source)
        try:
            if source is None:
                if model is None:
                    model = get_peft_model(base, copy.deepcopy(shape), adapter_name=name)
                else:
                    model.add_adapter(name, copy.deepcopy(shape))
            elif model is None:
                model = PeftModel.from_pretrained(base, str(source), adapter_name=name, is_trainable=True)
            else:
                model.load_adapter(str(source), adapter_name=name, is_trainable=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"The model does not take the adapter {source or lora}: {error}") from error
        if source is not None:
            _check_shape(model.peft_config[name], shape, source)
    return model


def _check_shape(found: Any, asked: LoraConfig, source: Path) -> None:
    """A loaded adapter brings its own shape; refuse one that is not what was asked for."""
    for field in ("r", "lora_alpha", "target_modules", "layers_to_transform"):
        ours, theirs = getattr(asked, field), getattr(found, field)
        if ours != theirs:
            raise ConfigError(
                f"The adapter in {source} has {field} = {theirs}, but lora asks for {ours}; make them equal."
            )


def lora_config(base: Any, lora: LoRA) -> LoraConfig:
    """The ``peft`` form of ``lora`` for this base model.

    Raises:
        ConfigError: more layers are asked for than the model has, or modules that it does not have.
    """
    linear = {name.rpartition(".")[2] for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)}
    missing = [name for name in lora.modules if name not in linear]
    if missing:
        raise ConfigError(
            f"lora.modules names {', '.join(missing)}, which {type(base).__name__} does not have; give some of its "
            f"linear modules: {', '.join(sorted(linear))}."
        )
    depth = base.config.get_text_config().num_hidden_layers
    if lora.layers is not None and not 1 <= lora.layers <= depth:
        raise ConfigError(f"lora.layers = {lora.layers}, but the model has {depth} layers; give 1 to {depth} or null.")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.modules),
        layers_to_transform=None if lora.layers is None else list(range(depth - lora.layers, depth)),
    )
