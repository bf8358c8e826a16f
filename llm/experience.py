"""From prompts to what a loss needs: sampled conversations, what the judge said, the reference's log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llm.chat import Role
from llm.generation import Generator, Sample
from llm.judges import Judge, ask
from llm.microbatch import logprobs
from llm.policy import Policy, Segment, TokenBatch
from slhf.runs import derive_seed
from slhf.signals import leave_one_out

Texts = dict[str, list[str]]
"""B texts each under "prompt" and under the name of each role."""


class Reward(Protocol):
    """A scalar reward, for the algorithms that need one."""

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """float64, shape (batch,)."""


@dataclass(frozen=True)
class Experience:
    """A batch of B sampled conversations and what is known about them before the update."""

    batch: TokenBatch
    """The conversations, (B, T) tokens."""
    reference: Tensor
    """(B, T), the reference's log-probability of each scored token, 0 elsewhere."""
    signal: Tensor
    """(B,), float32: the judge's p(y > y'), or a scalar reward."""
    texts: Texts
    """What was judged."""
    sampled: Tensor | None = None
    """(B, T), the sampler's own log-probability of each scored token, 0 elsewhere."""
    generated: int = 0
    """Tokens sampled for it, opponents' answers included."""
    replies: int = 1
    """m, how many replies to one answer are compared with it; they are in adjacent rows."""

    @property
    def compared(self) -> bool:
        """Whether two answers were compared, so that the signal is a preference and not a reward."""
        return len(self.texts) > 2

    def log_ratio(self, logp: Tensor, role: Role) -> Tensor:
        """(B, T): the role's per-token log(pi/pi_ref), without gradient, 0 for all other tokens."""
        return ((logp - self.reference) * self.batch.owners[role]).detach()


@dataclass
class Collector:
    """Everything ``collect`` functions draw on; the same for all steps of a run."""

    policy: Policy
    generator: Generator
    judge: Judge
    max_new_tokens: int
    run_seed: int
    reward: Reward | None = None
    """Only RLOO reads it."""
    tokens_per_micro_batch: int | None = None
    """How many tokens the reference reads at a time."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent per phase since the loop last cleared it."""

    def seed(self, step: int, role: str) -> int:
        """The address of a draw, as a seed."""
        return derive_seed(self.run_seed, step, role)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block under ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def preferences(self, texts: Texts, first: str, second: str) -> np.ndarray:
        """(B,): the judge's p(first > second)."""
        return ask(self.judge, texts["prompt"], texts[first], texts[second])

    def experience(
        self,
        conversations: Sequence[Sequence[Segment]],
        texts: Texts,
        signal: Callable[[Texts], np.ndarray],
        samples: Mapping[str, Sequence[Sample]],
        replies: int = 1,
    ) -> Experience:
        """Judge the texts and read the conversations with the reference.

        Args:
            conversations: B lists of segments.
            texts: what to judge.
            signal: gives the judge's preferences or rewards, (B,).
            samples: by role, what was sampled: B samples, those of a role in the conversations in their order.
            replies: m, see :class:`Experience`.
        """
        with self.phase("judge"):
            judged = torch.as_tensor(signal(texts), dtype=torch.float32, device=self.policy.device)
        with self.phase("reference"), self.policy.reference():
            batch = TokenBatch.pack(conversations, self.policy.pad, self.policy.device)
            reference = logprobs(self.policy, batch, self.tokens_per_micro_batch)
        sampled = torch.zeros_like(reference)
        for role, mask in batch.owners.items():
            sampled[mask] = torch.tensor([p for y in samples[role] for p in y.logprobs], device=sampled.device)
        distinct = {
            id(y): len(y.ids) for group in samples.values() for y in group
        }  # an answer repeats with its replies
        return Experience(batch, reference, judged, texts, sampled, sum(distinct.values()), replies)


def to_go(per_token: Tensor) -> Tensor:
    """(B, T) -> (B, T): the sum from each token to the end. A token answers for all the KL it causes."""
    return per_token.flip(-1).cumsum(-1).flip(-1)


def baseline(reward: Tensor, samples: int) -> Tensor:
    """(B,) -> (B,): what a sample's reward is compared with; it never depends on the sample itself.

    Rows come in groups of ``samples`` draws from the same context: leave-one-out means, or 1/2 for groups of
    one.
    """
    if samples == 1:
        return torch.full_like(reward, 0.5)
    return leave_one_out(reward.view(-1, samples)).view(-1)


def policy_gradient(logp: Tensor, mask: Tensor, advantage: Tensor) -> Tensor:
    """The surrogate whose gradient is -mean over conversations of sum_t A_t grad log pi(token t).

    Args:
        logp: (B, T), with gradient.
        mask: (B, T), the tokens the role chose.
        advantage: (B, T) or (B, 1), used without gradient.
    """
    return -(logp * mask * advantage.detach()).sum() / len(logp)
