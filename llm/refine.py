"""Inference-time refinement with language models: the Leader answers, then the Follower improves, again and again."""

from __future__ import annotations

from collections.abc import Sequence

from llm.chat import Role
from llm.generation import Generator
from llm.policy import Policy
from slhf.errors import InvalidData
from slhf.refinement import refine as refinement
from slhf.runs import derive_seed

Round = tuple[int, list[str], list[list[int]]]
"""Its number from 1, and each prompt's answer as text and as the Follower's token ids."""


def refine(
    policy: Policy,
    generator: Generator,
    prompts: Sequence[str],
    rounds: int,
    max_new_tokens: int,
    seed: int,
    *,
    follower: tuple[Policy, Generator] | None = None,
    first: Sequence[str] | None = None,
    first_row: int = 0,
) -> list[list[str]]:
    """The answers of each round, ``rounds`` lists of ``len(prompts)`` texts.

    Round 1 is the Leader's; round i the Follower's reply to round i - 1, of which it sees nothing earlier. A model
    that improves on its own answers sees the very tokens it sampled, another one reads them as text.

    Args:
        policy: the Leader, and the Follower unless ``follower`` says otherwise.
        generator: samples ``policy``.
        prompts: what is answered.
        rounds: at least 1.
        max_new_tokens: longest answer of a round.
        seed: of all draws.
        follower: another policy that plays the Follower, and its generator.
        first: the answers of round 1; the Leader is then not asked.
        first_row: of these prompts among all; row i draws from a stream of its own, whatever the batches are.

    Raises:
        InvalidData: there is not one answer in ``first`` for each prompt.
    """
    replier, replies = follower or (policy, generator)
    if first is not None and len(first) != len(prompts):
        raise InvalidData(f"There are {len(first)} first answers for {len(prompts)} prompts.")

    def leader() -> Round:
        if first is not None:
            return 1, list(first), [replier.chat.given(y) for y in first]
        ids = draw(generator, [policy.chat.prompt(x) for x in prompts], 1, "leader")
        texts = [policy.chat.text(y) for y in ids]
        return 1, texts, ids if replier is policy else [replier.chat.given(y) for y in texts]

    def improve(last: Round) -> Round:
        done, _, answers = last
        contexts = [replier.chat.follower_prompt(x, y) for x, y in zip(prompts, answers, strict=True)]
        ids = draw(replies, contexts, done + 1, "follower")
        return done + 1, [replier.chat.text(y) for y in ids], ids

    def draw(source: Generator, contexts: Sequence[Sequence[int]], number: int, role: Role) -> list[list[int]]:
        address = derive_seed(seed, "refine", number)
        return [sample.ids for sample in source.open(contexts).sample(max_new_tokens, address, role, first_row)]

    return [texts for _, texts, _ in refinement(leader, improve, rounds)]


def improve(
    policy: Policy,
    generator: Generator,
    prompts: Sequence[str],
    answers: Sequence[str],
    max_new_tokens: int,
    seed: int,
    first_row: int = 0,
) -> list[str]:
    """The Follower's replies to anyone's answers, one text each; ``first_row`` as in :func:`refine`."""
    return refine(policy, generator, prompts, 2, max_new_tokens, seed, first=answers, first_row=first_row)[1]


def resample(
    policy: Policy,
    generator: Generator,
    prompts: Sequence[str],
    count: int,
    max_new_tokens: int,
    seed: int,
    first_row: int = 0,
) -> list[list[str]]:
    """``count`` independent answers of the Leader to each prompt: lists of ``len(prompts)`` texts.

    ``first_row`` as in :func:`refine`.
    """
    session = generator.open([policy.chat.prompt(x) for x in prompts])
    session.repeat(count)
    texts = [policy.chat.text(y.ids) for y in session.sample(max_new_tokens, seed, first_row=first_row * count)]
    return [texts[i::count] for i in range(count)]
