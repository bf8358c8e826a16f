"""Prompts and roles as token ids.

The Leader answers ``[user: x]``. The Follower continues the same conversation,
``[user: x] [assistant: y] [user: IMPROVE]``, so that x + y + turn + y' is one causal sequence: one forward
pass yields both roles' log-probabilities, and the Follower can decode from the Leader's key-value cache.
Sampled token ids are never decoded and re-encoded.
"""

from __future__ import annotations

from typing import Any, Literal

from slhf.errors import ConfigError

IMPROVE = "Improve the previous answer. Phrase it as if it was the original response."
"""The Follower's instruction (arXiv 2512.16626)."""

Role = Literal["leader", "follower"]


class Chat:
    """The chat template of a tokenizer, cut into the pieces that surround sampled tokens.

    Raises:
        ConfigError: the tokenizer has no chat template or end-of-sequence token, or its template rewrites
            earlier turns, so that the Follower's conversation does not start with the Leader's.
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

    def prompt(self, x: str) -> list[int]:
        """Ids of ``[user: x]`` up to where the answer starts."""
        return self._encode(self._render([{"role": "user", "content": x}]))

    def turn(self, answer: list[int]) -> list[int]:
        """Ids between an answer and the Follower's reply; closes the answer if it was cut off."""
        ended = bool(answer) and answer[-1] == self.eos
        return self._turn[1:] if ended else self._turn

    def text(self, answer: list[int]) -> str:
        """The answer as text, without special tokens and outer white space."""
        return self.tokenizer.decode(answer, skip_special_tokens=True).strip()

    def _follower_turn(self) -> list[int]:
        x, y = "prompt", "answer"
        opening = self._render([{"role": "user", "content": x}])
        whole = self._render(
            [
                {"role": "user", "content": x},
                {"role": "assistant", "content": y},
                {"role": "user", "content": IMPROVE},
            ]
        )
        turn = self._encode(whole[len(opening + y) :])
        if not whole.startswith(opening + y) or turn[:1] != [self.eos]:
            raise ConfigError(
                f"The chat template of {self.tokenizer.name_or_path!r} does not keep earlier turns as they were "
                "sampled (or does not end an answer with the end-of-sequence token); the Follower cannot "
                "continue the Leader's conversation. Set a prefix-preserving template on the tokenizer."
            )
        return turn

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
