"""Prompts and roles as token ids.

The Leader answers ``[user: x]``. The Follower continues the same conversation,
``[user: x] [assistant: y] [user: IMPROVE]``. Where the template keeps earlier turns as they were sampled,
x + y + turn + y' is one causal sequence: one forward pass yields both roles' log-probabilities, and the
Follower can decode from the Leader's key-value cache. Where it rewrites them, the Follower gets a
conversation of its own. What a role sampled is scored as the very token ids that were sampled.
"""

from __future__ import annotations

from typing import Any, Literal

from llm.data.prompts import conversation
from llm.data.sources import Message
from slhf.errors import ConfigError

IMPROVE = "Improve the previous answer. Phrase it as if it was the original response."
"""The Follower's instruction (arXiv 2512.16626)."""

Role = Literal["leader", "follower"]


class Chat:
    """The chat template of a tokenizer, cut into the pieces that surround sampled tokens.

    Attributes:
        eos: the end-of-sequence token.
        continues: whether the Follower's conversation starts with the Leader's, token by token.

    Raises:
        ConfigError: the tokenizer has no chat template or end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            raise ConfigError(
                f"The tokenizer {tokenizer.name_or_path!r} has no chat template or no end-of-sequence token; "
                "use an instruction-tuned model."
            )
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self._turn = self._follower_turn()
        self.continues = bool(self._turn)

    def prompt(self, x: str) -> list[int]:
        """Ids of ``[user: x]`` up to where the answer starts."""
        return self._encode(self._render(conversation(x)))

    def turn(self, answer: list[int]) -> list[int]:
        """Ids between an answer and the Follower's reply; closes the answer if it was cut off.

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
        """The answer as text, without special tokens and outer white space."""
        return self.tokenizer.decode(answer, skip_special_tokens=True).strip()

    def given(self, answer: str) -> list[int]:
        """Ids of an answer that was not sampled here, with the end of sequence."""
        return [*self._encode(answer), self.eos]

    def _follower_turn(self) -> list[int]:
        """The ids that follow any answer, the end-of-sequence token first; none if the template rewrites turns."""
        x, y = "prompt", "answer"
        opening = self._render(conversation(x))
        whole = self._render(_asked_to_improve(x, y))
        turn = self._encode(whole[len(opening + y) :])
        return turn if whole.startswith(opening + y) and turn[:1] == [self.eos] else []

    def _render(self, messages: list[Message]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _asked_to_improve(x: str, y: str) -> list[Message]:
    return [
        *conversation(x),
        {"role": "assistant", "content": y},
        {"role": "user", "content": IMPROVE},
    ]
