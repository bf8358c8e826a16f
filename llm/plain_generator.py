"""Sampling through a model's own ``generate``: for any causal model that ``transformers`` loads.

Slower than ``llm.generation``, which shares prefixes and keeps caches from turn to turn, but it knows nothing of the
architecture. A model that is only asked for answers, and not trained, is sampled so where the fast path cannot compute
what the model does (:func:`sampler`). Settings are the same: the temperature, no top-p or top-k or penalty, and each
row draws from the stream that is addressed by (seed, row).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from llm.chat import Role
from llm.generation import READ_TOKENS, Generator, Sample, TransformersGenerator, batches, draw, uniforms
from llm.policy import Policy
from slhf.errors import ConfigError

TRIAL_TOKENS = 3
"""How many tokens the fast path samples before it is trusted with an architecture."""
TOLERANCE = {torch.float32: 1e-3}
"""How far its log-probabilities may be from the model's own, in nats; in half precision ``ROUGH``."""
ROUGH = 0.1


def sampler(policy: Policy) -> Generator:
    """What samples a policy: the fast path, or, for a model that is only asked, its own ``generate`` where it must be.

    The latter is said on standard error, with the reason.

    Raises:
        ConfigError: a policy to be trained that the fast path cannot sample.
    """
    if policy.scored:
        return TransformersGenerator(policy)
    reason = why_not_fast(policy)
    if not reason:
        return TransformersGenerator(policy)
    name = policy.model.name_or_path
    print(f"{name}: sampled through its own generate, which is slower: {reason}", file=sys.stderr)
    return PlainGenerator(policy)


@torch.no_grad()
def why_not_fast(policy: Policy) -> str:
    """Why :class:`~llm.generation.TransformersGenerator` does not sample this model; empty if it does.

    It is tried: what it samples from two conversations of different length must have the log-probabilities that the
    model's own forward pass gives.
    """
    prompts = [policy.chat.prompt(x) for x in ("a", "a b c d")]
    try:
        samples = TransformersGenerator(policy).open(prompts).sample(TRIAL_TOKENS, seed=0)
    except ConfigError as error:
        return str(error)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        return f"the fast path does not know {type(policy.model).__name__} ({type(error).__name__}: {error})"
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = torch.tensor([prompt + sample.ids], device=policy.device)
        logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / policy.temperature
        ours, theirs = torch.tensor(sample.logprobs), logits.log_softmax(-1)[range(len(sample.ids)), sample.ids].cpu()
        if not torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE.get(policy.model.dtype, ROUGH)):
            return f"the fast path does not compute what {type(policy.model).__name__} does"
    return ""


class PlainGenerator:
    """Sessions through ``generate``, for a policy that is its own reference."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> PlainSession:
        """See :class:`llm.generation.Generator`; a mixture with the reference, which is the policy, is the policy."""
        return PlainSession(self.policy, [list(prompt) for prompt in prompts])


class PlainSession:
    """Conversations as token ids; each answer reads its whole conversation again."""

    def __init__(self, policy: Policy, conversations: list[list[int]]) -> None:
        self.policy, self.conversations = policy, conversations

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """See :class:`llm.generation.Session`."""
        for conversation, new in zip(self.conversations, tokens, strict=True):
            conversation.extend(new)

    def repeat(self, times: int) -> None:
        """See :class:`llm.generation.Session`."""
        self.conversations = [list(conversation) for conversation in self.conversations for _ in range(times)]

    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader", first_row: int = 0) -> list[Sample]:
        """See :class:`llm.generation.Session`; one model plays every role."""
        streams = uniforms(seed, first_row, len(self.conversations), max_new_tokens).to(self.policy.device)
        samples = [Sample([], []) for _ in self.conversations]
        for part in batches([len(row) + max_new_tokens for row in self.conversations], READ_TOKENS):
            drawing = Drawing(streams[part], self.policy.temperature)
            rows = [self.conversations[row] for row in part]
            ends = sorted(self.policy.chat.ends)
            continued(self.policy.model, rows, self.policy.pad, max_new_tokens, ends, drawing)
            for row, ids, logp in zip(part, *drawing.found(), strict=True):
                length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
                samples[row] = Sample(ids[:length], logp[:length])
        for conversation, sample in zip(self.conversations, samples, strict=True):
            conversation.extend(sample.ids)
        return samples

    def trunk(self, conversations: list[list[int]]) -> Tensor | None:
        """See :class:`llm.generation.Session`: nothing is kept for training."""
        return None


class Drawing(LogitsProcessor):
    """Draws each next token itself and leaves ``generate`` no other; so rows have streams of their own.

    Args:
        uniforms: (B, steps), as :func:`llm.generation.draw` takes them.
        temperature: of the draw.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms, self.temperature = uniforms, temperature
        self.tokens: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits: 0 for the token that was drawn, else -inf."""
        token, logp = draw(scores.float() / self.temperature, self.uniforms[:, len(self.tokens)])
        self.tokens.append(token)
        self.logprobs.append(logp)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)

    def found(self) -> tuple[list[list[int]], list[list[float]]]:
        """All tokens and log-probabilities by row, those after a row's end included."""
        return torch.stack(self.tokens, 1).tolist(), torch.stack(self.logprobs, 1).tolist()


def next_logits(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The model's own logits of the token after each row, float32, (B, V)."""
    return continued(model, rows, pad, 1, []).logits[0].float()


@torch.no_grad()
def continued(
    model: Any, rows: Sequence[Sequence[int]], pad: int, longest: int, ends: list[int], drawing: Drawing | None = None
) -> Any:
    """What ``generate`` returns for rows of token ids, padded on the left so that they end together.

    The model's own generation settings play no part: they may hold a top-p, penalties or other ends.
    """
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_logits=drawing is None,
    )
    processors = LogitsProcessorList([] if drawing is None else [drawing])
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=processors)
