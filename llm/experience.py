"""From prompts to what a loss needs: sampled conversations, what the judge said, the reference's log-probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from llm.chat import Chat, Role
from llm.generation import Generator, Sample, Session
from llm.judges import Judge, ask
from llm.lora import Sharing
from llm.microbatch import logprobs, read_trunk
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
    """The conversations, (R, T) tokens. R = B where one row holds all of a conversation; R = 2 B where the roles
    have a row each (:func:`two_role_rows`), first the Leader's of all conversations, then the Follower's."""
    reference: Tensor
    """(R, T), the reference's log-probability of each scored token, 0 elsewhere."""
    signal: Tensor
    """(B,), float32: the judge's p(y > y'), or a scalar reward."""
    texts: Texts
    """What was judged."""
    step: int = 0
    """At which step of the run."""
    sharing: Sharing = "one"
    """Whether the roles share their parameters."""
    replies: int = 1
    """m, how many replies to one answer are compared with it; they are in adjacent conversations."""
    sampled: Tensor | None = None
    """(R, T), the sampler's own log-probability of each scored token, 0 elsewhere; None if it was not recorded."""
    generated: int = 0
    """Tokens sampled for it, opponents' answers included; 0 if that was not recorded."""
    trunk: Tensor | None = None
    """(R, T, d), what ``policy.trunk`` made of the batch, for ``policy.logprobs``; None if the model has none."""

    @property
    def compared(self) -> bool:
        """Whether two answers were compared, so that the signal is a preference and not a reward."""
        return len(self.texts) > 2

    def of(self, role: Role, x: Tensor) -> Tensor:
        """(R, T) -> (B, T): the rows that hold the role's tokens, with 0 for all other tokens."""
        rows = slice(0, len(self.signal)) if role == "leader" else slice(len(x) - len(self.signal), None)
        return x[rows] * self.batch.owners[role][rows]

    def log_ratio(self, logp: Tensor, role: Role) -> Tensor:
        """(B, T): the role's per-token log(pi/pi_ref), without gradient, 0 for all other tokens."""
        return self.of(role, logp - self.reference).detach()


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
    """How many tokens the reference reads at a time; null for all."""
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
        step: int,
        samples: Mapping[str, Sequence[Sample]] | None = None,
        replies: int = 1,
        session: Session | None = None,
    ) -> Experience:
        """Judge the texts and read the conversations with the reference.

        Args:
            conversations: R rows of segments.
            texts: what to judge.
            signal: gives the judge's preferences or rewards, (B,).
            step: of the run.
            samples: by role, the B samples of the conversations; what else was sampled, under any other name.
            replies: m, see :class:`Experience`.
            session: where they were sampled; its trunk is used if it has one.
        """
        batch = TokenBatch.pack(conversations, self.policy.pad, self.policy.device)
        rows = [[token for ids, _ in segments for token in ids] for segments in conversations]
        trunk = session.trunk(rows) if session is not None else None  # first: it ends the session, and its cache goes
        with self.phase("judge"):
            judged = torch.as_tensor(signal(texts), dtype=torch.float32, device=self.policy.device)
        with self.phase("reference"), self.policy.reference():
            if trunk is None:
                trunk = read_trunk(self.policy, batch, self.tokens_per_micro_batch)
            reference = logprobs(self.policy, batch, self.tokens_per_micro_batch, trunk)
        whole = Experience(batch, reference, judged, texts, step, self.policy.sharing, replies, trunk=trunk)
        if samples is None:
            return whole
        sampled = torch.zeros_like(reference)
        for role, mask in batch.owners.items():
            sampled[mask] = torch.tensor([p for y in samples[role] for p in y.logprobs], device=sampled.device)
        # by identity: an answer is in as many conversations as it has replies
        distinct = {id(y): len(y.ids) for group in samples.values() for y in group}
        return replace(whole, sampled=sampled, generated=sum(distinct.values()))


def two_role_rows(
    policy: Policy, prompts: Sequence[str], answers: Sequence[list[int]], replies: Sequence[list[int]]
) -> list[list[Segment]]:
    """The rows of B conversations of a Leader and a Follower.

    One row each where one forward can serve both roles: they share their parameters, and the chat template
    keeps earlier turns. Otherwise a row for each role.
    """
    rows = joint_rows if policy.sharing == "one" and policy.chat.continues else separate_rows
    return rows(policy.chat, prompts, answers, replies)


def joint_rows(
    chat: Chat, prompts: Sequence[str], answers: Sequence[list[int]], replies: Sequence[list[int]]
) -> list[list[Segment]]:
    """B rows: prompt, answer, turn and reply as one sequence."""
    return [
        [(chat.prompt(x), None), (y, "leader"), (chat.turn(y), None), (reply, "follower")]
        for x, y, reply in zip(prompts, answers, replies, strict=True)
    ]


def separate_rows(
    chat: Chat, prompts: Sequence[str], answers: Sequence[list[int]], replies: Sequence[list[int]]
) -> list[list[Segment]]:
    """2 B rows: first the Leader's of all conversations, then the Follower's."""
    conversations = list(zip(prompts, answers, replies, strict=True))
    leader: list[list[Segment]] = [[(chat.prompt(x), None), (y, "leader")] for x, y, _ in conversations]
    return leader + [[(chat.follower_prompt(x, y), None), (reply, "follower")] for x, y, reply in conversations]


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


def policy_gradient(experience: Experience, logp: Tensor, role: Role, advantage: Tensor) -> Tensor:
    """The surrogate whose gradient is -mean over conversations of sum_t A_t grad log pi(token t).

    Args:
        experience: what was sampled.
        logp: (R, T), with gradient.
        role: whose tokens.
        advantage: (B, T) or (B, 1), used without gradient.
    """
    return -(experience.of(role, logp) * advantage.detach()).sum() / len(advantage)
