"""Prompts and roles as token ids.

The Leader answers ``[user: x]``. The Follower continues the same conversation,
``[user: x] [assistant: y] [user: IMPROVE]``. Where the template keeps earlier turns as they were sampled,
x + y + turn + y' is one causal sequence: one forward pass yields both roles' log-probabilities, and the
Follower can decode from the Leader's key-value cache. Where it rewrites them, the Follower gets a
conversation of its own. What a role sampled is scored as the very token ids that were sampled.

Where a turn ends is the template's to say: a tokenizer's end-of-sequence token may be another (Qwen2.5's base models,
Phi), and a model that is sampled beyond the end of its turn goes on to invent the user's next one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError

from llm.data.prompts import conversation
from llm.data.sources import Message
from slhf.errors import ConfigError

IMPROVE = "Improve the previous answer. Phrase it as if it was the original response."
"""The Follower's instruction (arXiv 2512.16626)."""

TODAY = date(2024, 7, 26)
"""What a template that asks for the date is told, on every day: else no run could be resumed, or repeated, on the next.
It is the date that Llama 3's own templates fall back on."""

DATED = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>[^"'\\]*)(?P=quote)\s*\)""")
"""How a template asks for the date."""

Role = Literal["leader", "follower"]


class RefusedConversation(ConfigError):
    """A chat template takes no such conversation: one with a system message, say."""


def render(tokenizer: Any, messages: Sequence[Mapping[str, object]], reply: bool = False) -> str:
    """A conversation in the tokenizer's chat template; the date in it is :data:`TODAY`.

    Args:
        tokenizer: whose.
        messages: with "role" and "content".
        reply: whether a reply is to follow; a template that can ask for reasoning first is told not to.

    Raises:
        ConfigError: there is no template.
        RefusedConversation: it takes no such conversation.
    """
    settings = {"add_generation_prompt": True, "enable_thinking": False} if reply else {}
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruction-tuned model."
        ) from error
    try:
        return tokenizer.apply_chat_template(messages, chat_template=dated(template), tokenize=False, **settings)
    except TemplateError as error:
        raise RefusedConversation(
            f"The chat template of {tokenizer.name_or_path!r} refuses turns of "
            f"{', '.join(str(message['role']) for message in messages)}: {error}"
        ) from error


@lru_cache
def dated(template: str) -> str:
    """A template with TODAY in place of today, since a template can be handed data but no other clock.

    Raises:
        ConfigError: it puts the way to write the date together as it goes.
    """
    fixed = DATED.sub(lambda found: repr(TODAY.strftime(found["format"])), template)
    if re.search(r"strftime_now\s*\(", fixed):
        raise ConfigError(
            "A chat template puts the way to write the date together (strftime_now), so that it cannot be fixed."
        )
    return fixed


class Chat:
    """The chat template of a tokenizer, cut into the pieces that surround sampled tokens.

    Attributes:
        eos: the token with which the template closes an answer.
        ends: the tokens at which sampling stops: ``eos``, and whatever else ends the model's sequences.
        continues: whether the Follower's conversation starts with the Leader's, token by token.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that closes an answer with no single token.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        """``ends``: the end-of-sequence tokens that the model's own generation settings name."""
        self.tokenizer = tokenizer
        x, answers = "prompt", ("first", "second")  # no common ending: what follows an answer is where these agree
        wholes = [self._render(_asked_to_improve(x, y)) for y in answers]
        after = _common_ending(*wholes)
        self.eos = self._end(after)
        own = {tokenizer.eos_token_id} - {None}
        self.ends = frozenset({self.eos, *own, *ends})
        self._turn = self._encode(after)
        opening = self._render([{"role": "user", "content": x}])
        as_sampled = wholes == [opening + y + after for y in answers]
        self.continues = as_sampled and self._turn[:1] == [self.eos]

    def prompt(self, x: str) -> list[int]:
        """Ids of ``[user: x]`` up to where the answer starts."""
        return self._encode(self._render(conversation(x)))

    def turn(self, answer: list[int]) -> list[int]:
        """Ids between an answer and the Follower's reply; closes the answer if it did not end as the template does.

        Only for a template that ``continues``; :meth:`follower_prompt` serves every one.
        """
        ended = bool(answer) and answer[-1] == self.eos
        return self._turn[1:] if ended else self._turn

    def follower_prompt(self, x: str, answer: list[int]) -> list[int]:
        """Ids of ``[user: x] [assistant: answer] [user: IMPROVE]`` up to where the reply starts."""
        if self.continues:
            return [*self.prompt(x), *answer, *self.turn(answer)]
        return self._encode(self._render(_asked_to_improve(x, self.text(answer))))

    def text(self, answer: list[int]) -> str:
        """The answer as text, without its end, special tokens and outer white space."""
        said = answer[:-1] if answer and answer[-1] in self.ends else answer
        return self.tokenizer.decode(said, skip_special_tokens=True).strip()

    def given(self, answer: str) -> list[int]:
        """Ids of an answer that was not sampled here, with the end of its turn."""
        return [*self._encode(answer), self.eos]

    def _end(self, after: str) -> int:
        """The token that closes an answer: what the template puts behind it must begin with one made for that."""
        first = next(iter(self._encode(after.lstrip())), None)
        if first is None or first not in {*self.tokenizer.added_tokens_decoder, self.tokenizer.eos_token_id}:
            raise ConfigError(
                f"The chat template of {self.tokenizer.name_or_path!r} follows an answer with {after[:40]!r}, which "
                "begins with no special token of its tokenizer, so that the end of an answer could not be told; use "
                "a model whose template ends turns with a token of their own, such as <|im_end|> or </s>."
            )
        return first

    def _render(self, messages: list[Message]) -> str:
        return render(self.tokenizer, messages, reply=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _common_ending(a: str, b: str) -> str:
    """What two texts that differ end with."""
    backwards = zip(reversed(a), reversed(b), strict=False)
    shared = next((i for i, (ours, theirs) in enumerate(backwards) if ours != theirs), 0)
    return a[len(a) - shared :]


def _asked_to_improve(x: str, y: str) -> list[Message]:
    return [
        *conversation(x),
        {"role": "assistant", "content": y},
        {"role": "user", "content": IMPROVE},
    ]
