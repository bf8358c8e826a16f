"""Sampling answers, and replies to them, from the policy.

A :class:`Session` is a batch of open conversations with their key-value cache. The Follower continues the
Leader's session, so nothing is read twice. Sampling is pure: no top-p or top-k, which would make the
log-probabilities of training belong to another distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llm.chat import Role
from llm.policy import Policy
from slhf.errors import TrainingError
from slhf.signals import geometric_mixture


@dataclass(frozen=True)
class Sample:
    """One sampled answer: its token ids, with the end-of-sequence token if it ended, and their log-probabilities."""

    ids: list[int]
    logprobs: list[float]


class Session(Protocol):
    """A batch of open conversations: extend, repeat if wanted, sample, then extend again."""

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Append given tokens to each conversation."""

    def repeat(self, times: int) -> None:
        """Replace each conversation by ``times`` copies of it, in a row."""

    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader") -> list[Sample]:
        """Let the model, playing ``role``, continue each conversation until its end of sequence or the limit."""


class Generator(Protocol):
    """Opens sessions; the one thing a generation backend has to provide."""

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> Session:
        """Conversations that start with ``prompts``.

        With ``mixture`` the tokens come from the geometric mixture pi^(1-m) pi_ref^m instead of the policy;
        1 is the reference.
        """


def draw(logp: Tensor, rng: torch.Generator) -> Tensor:
    """(B, V) -> (B, 1): one token a row, by inverting the cumulative distribution at one uniform number.

    ``torch.multinomial`` draws V exponentials instead, a fifth of the time of a decoding step on a CPU.
    """
    cumulative = logp.double().exp().cumsum(-1)
    uniform = torch.rand(len(logp), 1, generator=rng, device=logp.device, dtype=torch.float64)
    # right=True: the first token whose cumulative probability exceeds the target, so never one of probability 0
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp(max=logp.shape[-1] - 1)


class TransformersGenerator:
    """Sessions on the training model itself, through ``transformers``."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> TransformersSession:
        """See :class:`Generator`."""
        session = TransformersSession(self.policy, 0.0 if mixture is None else mixture)
        session.extend(prompts)
        return session


class TransformersSession:
    """Every call appends the same number of columns to all rows; a mask tells which of them are real."""

    def __init__(self, policy: Policy, mixture: float) -> None:
        self.policy = policy
        # Which forwards the next token needs, by whether the adapter is on: both only for a true mixture.
        self.caches = {on: DynamicCache() for on, weight in ((True, 1 - mixture), (False, mixture)) if weight > 0}
        self.mixture = mixture
        self.role: Role = "leader"
        self.ids: Tensor | None = None
        self.mask: Tensor | None = None
        self.next_logits: Tensor | None = None
        self.pending: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Read the tokens, left-padded so that the last column is real in every row."""
        length = max(map(len, tokens))
        ids = torch.tensor([[self.policy.pad] * (length - len(row)) + list(row) for row in tokens])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in tokens])
        ids, mask = ids.to(self.policy.device), mask.to(self.policy.device)
        if self.pending is not None:  # the last sampled token has not been read yet
            ids, mask = torch.cat([self.pending[0], ids], 1), torch.cat([self.pending[1], mask], 1)
            self.pending = None
        self._read(ids, mask)

    def repeat(self, times: int) -> None:
        """See :class:`Session`."""
        if times == 1:
            return
        if self.ids is None or self.mask is None or self.next_logits is None or self.pending is not None:
            raise RuntimeError("Repeat a session after extending it, not after sampling.")
        for cache in self.caches.values():
            cache.batch_repeat_interleave(times)
        self.ids = self.ids.repeat_interleave(times, 0)
        self.mask = self.mask.repeat_interleave(times, 0)
        self.next_logits = self.next_logits.repeat_interleave(times, 0)

    @torch.no_grad()
    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader") -> list[Sample]:
        """See :class:`Session`."""
        if self.next_logits is None or self.pending is not None:
            raise RuntimeError("Extend the session before sampling from it (again).")
        self._play(role)
        eos, pad = self.policy.chat.eos, self.policy.pad
        rng = torch.Generator(self.policy.device).manual_seed(seed)
        alive = torch.ones(len(self.next_logits), 1, dtype=torch.long, device=self.policy.device)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for position in range(max_new_tokens):
            logp = self.next_logits.log_softmax(-1)
            token = draw(logp, rng)
            columns.append((token, logp.gather(1, token), alive))
            token = torch.where(alive.bool(), token, pad)
            self.pending = token, alive
            alive = alive * (token != eos)
            if position + 1 == max_new_tokens or not alive.any():
                break
            self._read(*self.pending)
        return [
            Sample(*map(list, zip(*[(int(t), float(p)) for t, p, live in zip(*row, strict=True) if live], strict=True)))
            for row in zip(*[torch.cat(part, 1).tolist() for part in zip(*columns, strict=True)], strict=True)
        ]

    def _play(self, role: Role) -> None:
        """Sample as ``role`` from here on; what the other role's adapter has read is read again."""
        changes = self.policy.adapter_of(role) != self.policy.adapter_of(self.role)
        self.role = role
        if changes and self.ids is not None and self.mask is not None:
            ids, mask, self.ids, self.mask = self.ids, self.mask, None, None
            self.caches = {on: DynamicCache() for on in self.caches}
            self._read(ids, mask)

    def _read(self, ids: Tensor, mask: Tensor) -> None:
        """Feed columns to the model(s) and keep the float32 logits of the next token at the temperature."""
        whole = mask if self.mask is None else torch.cat([self.mask, mask], 1)
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], 1)
        positions = (whole.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logp = {}
        for adapter_on, cache in self.caches.items():
            with self._adapter(adapter_on):
                out = self.policy.decoder(
                    input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=cache, use_cache=True
                )
                logits = self.policy.head(out.last_hidden_state[:, -1]).float() / self.policy.temperature
            if not torch.isfinite(logits).all():
                raise TrainingError(
                    "The model's logits are not finite: training has diverged. Lower the learning rate."
                )
            logp[adapter_on] = logits.log_softmax(-1)
        self.mask, self.pending = whole, None
        self.next_logits = (
            geometric_mixture(logp[True], logp[False], mixture=self.mixture)
            if len(logp) == 2
            else next(iter(logp.values()))
        )

    @contextmanager
    def _adapter(self, on: bool) -> Iterator[None]:
        if on:
            with self.policy.acting(self.role):
                yield
        else:
            with self.policy.reference():
                yield
