"""Inference-time refinement with a language model: the Leader answers, then the Follower improves, again and again."""

from __future__ import annotations

from collections.abc import Sequence

from llm.chat import Role
from llm.generation import Generator
from llm.policy import Policy
from slhf.refinement import refine as refinement
from slhf.runs import derive_seed


def refine(
    policy: Policy, generator: Generator, prompts: Sequence[str], rounds: int, max_new_tokens: int, seed: int
) -> list[list[str]]:
    """The answers of each round, ``rounds`` lists of ``len(prompts)`` texts.

    Round 1 is the Leader's; round i the Follower's reply to round i - 1, of which it sees nothing earlier.
    """
    chat = policy.chat
    openings = [chat.prompt(x) for x in prompts]

    def leader() -> tuple[int, list[list[int]]]:
        return 1, draw(openings, 1, "leader")

    def follower(last: tuple[int, list[list[int]]]) -> tuple[int, list[list[int]]]:
        done, answers = last
        contexts = [chat.follower_prompt(x, y) for x, y in zip(prompts, answers, strict=True)]
        return done + 1, draw(contexts, done + 1, "follower")

    def draw(contexts: Sequence[Sequence[int]], number: int, role: Role) -> list[list[int]]:
        samples = generator.open(contexts).sample(max_new_tokens, derive_seed(seed, "refine", number), role)
        return [sample.ids for sample in samples]

    return [[chat.text(y) for y in answers] for _, answers in refinement(leader, follower, rounds)]


def improve(
    policy: Policy, generator: Generator, prompts: Sequence[str], answers: Sequence[str], max_new_tokens: int, seed: int
) -> list[str]:
    """The Follower's replies to anyone's answers, one text each; its own tokenizer reads them."""
    chat = policy.chat
    contexts = [chat.follower_prompt(x, chat.answer(y)) for x, y in zip(prompts, answers, strict=True)]
    return [chat.text(y.ids) for y in generator.open(contexts).sample(max_new_tokens, seed, "follower")]


def resample(
    policy: Policy, generator: Generator, prompts: Sequence[str], count: int, max_new_tokens: int, seed: int
) -> list[list[str]]:
    """``count`` independent answers of the Leader to each prompt: lists of ``len(prompts)`` texts."""
    session = generator.open([policy.chat.prompt(x) for x in prompts])
    session.repeat(count)
    texts = [policy.chat.text(y.ids) for y in session.sample(max_new_tokens, seed)]
    return [texts[i::count] for i in range(count)]
