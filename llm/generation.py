"""Sampling answers, and replies to them, from the policy.

A :class:`Session` is a batch of open conversations with their key-value cache. The Follower continues the
Leader's session, so nothing is read twice. Sampling is pure: no top-p or top-k, which would make the
log-probabilities of training belong to another distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache

from llm.attention import masks, require_attention
from llm.chat import Role
from llm.linear import FastLinears
from llm.logprobs import head_logits
from llm.policy import Policy
from llm.trunk import frozen_layers
from slhf.errors import TrainingError
from slhf.runs import derive_seed
from slhf.signals import geometric_mixture

READ_TOKENS = 2**14
"""Most tokens, padding included, that one forward pass reads; longer ones are cut by rows, sorted by length."""
BLOCK = 128
"""Tokens of the vocabulary summed together while drawing."""
COMPACT = 1 / 8
"""The share of finished conversations at which they leave the batch."""
WIDTH = 128
"""Compiled decoding rounds the length of its cache up to a multiple of this, so that it seldom meets a new shape."""


@dataclass(frozen=True)
class Sample:
    """One sampled answer: its token ids, with the token that ended it if one did, and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]


class Session(Protocol):
    """A batch of open conversations: extend, repeat if wanted, sample, then extend again."""

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append given tokens to each conversation."""

    def repeat(self, times: int) -> None:
        """Replace each conversation by ``times`` copies of it, in a row."""

    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader", first_row: int = 0) -> list[Sample]:
        """Let the model continue each conversation until one of ``policy.chat.ends`` or the limit.

        Args:
            max_new_tokens: the limit.
            seed: address of the draw. Row i draws from its own stream (seed, first_row + i), so that what it
                samples depends neither on the rows beside it nor on how a batch is split over processes.
            role: who speaks.
            first_row: of this batch within the global batch.
        """

    def trunk(self, conversations: list[list[int]]) -> Tensor | None:
        """What ``policy.trunk`` would make of these conversations, (B, T, d), if they are this session's.

        None if they are not, or if sampling has not made it. The session lets go of its cache: it has done its work.
        """


class Generator(Protocol):
    """Opens sessions; the one thing a generation backend has to provide."""

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> Session:
        """Conversations that start with ``prompts``.

        With ``mixture`` the tokens come from the geometric mixture pi^(1-m) pi_ref^m instead of the policy;
        1 is the reference.
        """


def uniforms(seed: int, first_row: int, rows: int, count: int) -> Tensor:
    """(rows, count), float64: row i is the stream addressed by (seed, first_row + i), the same on every device."""
    streams = (torch.Generator().manual_seed(derive_seed(seed, first_row + i)) for i in range(rows))
    return torch.stack([torch.rand(count, generator=rng, dtype=torch.float64) for rng in streams])


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the cumulative distribution, and its log-probability.

    First the block of the vocabulary that the uniform number falls into, then the token within it: two short
    cumulative sums in float64 instead of one over the vocabulary. (``torch.multinomial`` draws V exponentials,
    a fifth of the time of a decoding step on a CPU.)

    Args:
        logits: (B, V), float32, finite or -inf.
        uniform: (B,), float64, in [0, 1).

    Returns:
        Tokens (B,), int64, and their log-probabilities (B,), float32.

    Raises:
        TrainingError: the logits are not numbers.
    """
    top = logits.amax(-1, keepdim=True)
    weights = pad((logits - top).exp_(), (0, -logits.shape[1] % BLOCK)).view(len(logits), -1, BLOCK)
    blocks = weights.sum(-1).double().cumsum(-1)
    total = blocks[:, -1:]
    if not torch.isfinite(total).all():
        raise TrainingError("The model's logits are not finite: training has diverged. Lower the learning rate.")
    target = uniform[:, None] * total
    # right=True: the first whose cumulative weight exceeds the target, so never one of weight 0
    block = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = weights[torch.arange(len(logits), device=logits.device), block.squeeze(1)].double()
    within = torch.searchsorted(inside.cumsum(-1), target - before, right=True)
    # Rounding may put the target beyond a block's sum; then the last token with weight is meant.
    last = BLOCK - 1 - (inside > 0).flip(-1).long().argmax(-1, keepdim=True)
    token = block * BLOCK + torch.minimum(within, last)
    return token.squeeze(1), (logits.gather(1, token) - top - total.log()).squeeze(1).float()


class RaggedCache(Cache):
    """Keys and values of conversations of different lengths: row i is conversation i, column p its position p.

    There is no padding between the parts of a conversation: a row's tokens fill its first columns. What lies
    beyond them is either 0 or left over from padded reading, and is overwritten before a mask lets it be seen.

    Where the first ``trunk`` layers are frozen, what they make of each token is kept beside them, for training.
    """

    def __init__(self, trunk: int) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.trunk, self.lower = trunk, torch.empty(0)
        self.rows, self.columns, self.width = 0, 0, 0
        self.index, self.positions = torch.empty(0), torch.empty(0)
        self.seen: slice | Tensor = slice(0)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many conversations (before the first is read) of so many tokens."""
        extra = columns - self.columns
        self.rows, self.columns = rows, max(columns, self.columns)
        if extra > 0:
            self._replace(lambda x: pad(x, (0, 0, 0, extra)))

    def point(self, rows: slice | Tensor, positions: Tensor, width: int) -> None:
        """Say where the next forward pass writes, ``rows`` and ``positions`` (B, T), and that it reads ``width``."""
        whole = torch.arange(self.rows, device=positions.device)
        self.index, self.seen, self.positions, self.width = whole[rows, None], rows, positions, width

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Called by the model's attention: store (B, H, T, D), return all keys and values of these rows so far."""
        if layer_idx == len(self.keys):
            self.keys.append(self._empty(key_states))
            self.values.append(self._empty(value_states))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        self._write(keys, key_states)
        self._write(values, value_states)
        return keys[self.seen, :, : self.width], values[self.seen, :, : self.width]

    def keep(self, _layer: Any, args: tuple[Tensor, ...]) -> None:
        """A hook before the first layer above the trunk: store what it is given, (B, T, d)."""
        hidden = args[0].unsqueeze(1)
        if not len(self.lower):
            self.lower = self._empty(hidden)
        self._write(self.lower, hidden)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, which may repeat, in this order."""
        self.rows = len(rows)
        self._replace(lambda x: x[rows])

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Permute rows: each of ``sources`` goes to its place in ``targets``."""
        for each in (*self.keys, *self.values, *([self.lower] if len(self.lower) else [])):
            each[targets] = each[sources]

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.rows, like.shape[1], self.columns, like.shape[3])

    def _write(self, store: Tensor, new: Tensor) -> None:
        store[self.index, :, self.positions] = new.transpose(1, 2)

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """One layer after the other, so that what is replaced is never held beside all of what replaces it."""
        for store in (self.keys, self.values):
            for i in range(len(store)):
                store[i] = change(store[i])
        self.lower = change(self.lower) if len(self.lower) else self.lower


class TransformersGenerator:
    """Sessions on the training model itself, through ``transformers``.

    Args:
        policy: whose weights are sampled.
        compile: decode through ``torch.compile``, with shapes that stay the same: finished conversations are
            carried along. For GPUs; on a CPU compiling takes longer than it saves.

    Raises:
        ConfigError: the model has layers other than full or sliding-window attention.
    """

    def __init__(self, policy: Policy, compile: bool = False) -> None:
        require_attention(policy.decoder)
        self.policy, self.compile = policy, compile
        self.fast = FastLinears(policy.model)
        self.decode = torch.compile(_forward, dynamic=False) if compile else _forward

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> TransformersSession:
        """See :class:`Generator`."""
        session = TransformersSession(self, 0.0 if mixture is None else mixture)
        session.extend(prompts)
        return session


class TransformersSession:
    """Token ids are appended at once and read, by the adapter of whoever speaks, when the next token is asked for."""

    def __init__(self, generator: TransformersGenerator, mixture: float) -> None:
        self.generator, self.policy = generator, generator.policy
        # Which models the next token needs, by whether the adapter is on: both only for a true mixture.
        self.weights = {on: weight for on, weight in ((True, 1 - mixture), (False, mixture)) if weight > 0}
        self.mixture = mixture
        self.caches: dict[bool, RaggedCache] = {}
        self.conversations: list[list[int]] = []
        self.read: list[int] = []
        """How many tokens of each conversation are in the caches."""
        self.order: list[int] = []
        """Whose conversation is in row i of the caches; decoding moves finished ones behind the others."""
        self.reader = ""
        """The adapter that read them."""
        self.copies = 1

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """See :class:`Session`."""
        if self.copies > 1:
            raise RuntimeError("Sample from a repeated session before extending it again.")
        self.conversations = self.conversations or [[] for _ in tokens]
        for conversation, new in zip(self.conversations, tokens, strict=True):
            conversation.extend(new)

    def repeat(self, times: int) -> None:
        """See :class:`Session`."""
        self.copies *= times

    @torch.no_grad()
    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader", first_row: int = 0) -> list[Sample]:
        """See :class:`Session`."""
        with self.policy.acting(role), self.generator.fast.on():
            logits = self._catch_up(self.policy.adapter_of(role), max_new_tokens)
            streams = uniforms(seed, first_row, len(self.conversations), max_new_tokens)
            samples = self._decode(logits, streams.to(logits.device))
        for conversation, sample in zip(self.conversations, samples, strict=True):
            conversation.extend(sample.ids)
        return samples

    def trunk(self, conversations: list[list[int]]) -> Tensor | None:
        """See :class:`Session`. It is 0 for the last token of each, which has not been read and which none follows."""
        cache = next(iter(self.caches.values()), None)
        self.caches, self.reader = {}, ""  # to sample again would mean to read all again
        if cache is None or not len(cache.lower) or conversations != self.conversations:
            return None
        lower = cache.lower[:, 0, : max(map(len, conversations))]
        return lower if self.order == sorted(self.order) else lower[self._tensor(self._places())]

    def _decode(self, logits: Tensor, streams: Tensor) -> list[Sample]:
        """Draw until every conversation has ended; finished ones move behind the others and are left out."""
        ends, steps = self.policy.chat.ends, streams.shape[1]
        samples = [Sample([], []) for _ in self.conversations]
        ended = [False] * len(samples)
        order, live = self.order, len(samples)
        for step in range(steps):
            tokens, logp = draw(logits, streams[order[:live], step])
            for row, token, value in zip(order[:live], tokens.tolist(), logp.tolist(), strict=True):
                if not ended[row]:
                    samples[row].ids.append(token)
                    samples[row].logprobs.append(value)
                    ended[row] = token in ends
            finished = sum(ended[row] for row in order[:live])
            if finished == live or step + 1 == steps:
                break
            if finished >= COMPACT * live and not self.generator.compile:
                tokens, live = self._compact(tokens, order, ended, live - finished), live - finished
            logits = self._next_logits(slice(0, live), tokens[:, None], [self.read[row] for row in order[:live]], True)
            for row in order[:live]:
                self.read[row] += not ended[row]
        return samples

    def _compact(self, tokens: Tensor, order: list[int], ended: list[bool], live: int) -> Tensor:
        """Swap rows of the caches, and ``order``, so that those still going are the first ``live``; their tokens."""
        holes = [i for i in range(live) if ended[order[i]]]
        movers = [i for i in range(live, len(tokens)) if not ended[order[i]]]
        sources, targets = holes + movers, movers + holes
        for cache in self.caches.values():
            cache.move(self._tensor(sources), self._tensor(targets))
        tokens[targets] = tokens[sources]
        moved = [order[i] for i in sources]
        for i, row in zip(targets, moved, strict=True):
            order[i] = row
        return tokens[:live]

    def _catch_up(self, adapter: str, room: int) -> Tensor:
        """Read what has not been read yet, then repeat; logits (B, V) of the next token, in the caches' order."""
        if adapter != self.reader:
            trunk = 0 if self.generator.compile else frozen_layers(self.policy.decoder)
            self.caches = {on: RaggedCache(trunk) for on in self.weights}
            self.read, self.reader = [0] * len(self.conversations), adapter
            self.order = list(range(len(self.conversations)))
        count = len(self.conversations)
        columns = max(map(len, self.conversations)) + room
        shared = common_prefix(self.conversations)
        if not any(self.read) and count > 1 and shared > 0:  # such as a system prompt: read once
            self._reserve(1, columns)
            self._next_logits(slice(0, 1), self._tensor([self.conversations[0][:shared]]), [0])
            self._select([0] * count)
            self.read = [shared] * count
        logits = self._read_pending(columns)
        self.read = list(map(len, self.conversations))
        if self.copies > 1:
            index = [row for row in self._places() for _ in range(self.copies)]
            self._select(index)
            self.conversations = [list(tokens) for tokens in self.conversations for _ in range(self.copies)]
            self.read = list(map(len, self.conversations))
            self.order, logits, self.copies = list(range(len(index))), logits[index], 1
        return logits

    def _read_pending(self, columns: int) -> Tensor:
        """Read the rest of each conversation into a cache of at least so many columns; the next token's logits."""
        starts = [self.read[i] for i in self.order]
        pending = [self.conversations[i][start:] for i, start in zip(self.order, starts, strict=True)]
        parts = batches(list(map(len, pending)), READ_TOKENS)
        lengths = [max(len(pending[row]) for row in part) for part in parts]
        reach = [start + n for part, n in zip(parts, lengths, strict=True) for start in (starts[row] for row in part)]
        self._reserve(len(pending), max(columns, *reach))
        logits = torch.empty(0)
        for part, length in zip(parts, lengths, strict=True):
            ids = self._tensor([pending[row] + [self.policy.pad] * (length - len(pending[row])) for row in part])
            ends = self._tensor([len(pending[row]) - 1 for row in part])
            at = slice(0, len(pending)) if len(part) == len(pending) else self._tensor(part)
            new = self._next_logits(at, ids, [starts[row] for row in part], ends=ends)
            logits = logits if len(logits) else new.new_empty(len(pending), new.shape[1])
            logits[at] = new
        return logits

    def _places(self) -> list[int]:
        """In which row of the caches each conversation is."""
        return sorted(range(len(self.order)), key=self.order.__getitem__)

    def _next_logits(
        self, rows: Any, ids: Tensor, starts: list[int], decoding: bool = False, ends: Tensor | None = None
    ) -> Tensor:
        """Feed ids (B, T) to the model(s), from positions ``starts`` on; float32 logits, at the temperature, (B, V)."""
        positions = self._tensor(starts)[:, None] + torch.arange(ids.shape[1], device=ids.device)
        forward = self.generator.decode if decoding else _forward
        logits = {}
        for on, cache in self.caches.items():
            static = decoding and self.generator.compile
            cache.point(rows, positions, cache.columns if static else max(starts) + ids.shape[1])
            with self._adapter(on):
                hidden = forward(self.policy.decoder, cache, ids, positions)
            hidden = hidden[:, -1] if ends is None else hidden[torch.arange(len(ids), device=ids.device), ends]
            logits[on] = head_logits(self.policy.head, hidden) / self.policy.temperature
        if len(logits) == 1:
            return next(iter(logits.values()))
        return geometric_mixture(logits[True].log_softmax(-1), logits[False].log_softmax(-1), mixture=self.mixture)

    def _reserve(self, rows: int, columns: int) -> None:
        if self.generator.compile:
            columns = math.ceil(columns / WIDTH) * WIDTH
        for cache in self.caches.values():
            cache.reserve(rows, columns)

    def _select(self, rows: list[int]) -> None:
        for cache in self.caches.values():
            cache.select(self._tensor(rows))

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.policy.device)

    @contextmanager
    def _adapter(self, on: bool) -> Iterator[None]:
        if on:
            yield
        else:
            with self.policy.reference():
                yield


def _forward(decoder: Any, cache: RaggedCache, ids: Tensor, positions: Tensor) -> Tensor:
    """Last hidden states (B, T, d); each token sees the columns of its own row up to its own position."""
    mask = masks(decoder, positions, cache.width)
    hook = decoder.layers[cache.trunk].register_forward_pre_hook(cache.keep) if cache.trunk else None
    try:
        out = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    finally:
        if hook is not None:
            hook.remove()
    return out.last_hidden_state


def batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Rows in batches of at most so many tokens, padding included; of similar length if there is more than one."""
    if max(lengths) * len(lengths) <= tokens:
        return [list(range(len(lengths)))]
    parts: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if parts[-1] and lengths[parts[-1][0]] * (len(parts[-1]) + 1) > tokens:
            parts.append([])
        parts[-1].append(row)
    return parts


def common_prefix(conversations: list[list[int]]) -> int:
    """How many first tokens all share, leaving each at least one of its own."""
    columns = list(zip(*conversations, strict=False))[:-1]
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
