"""What fits into a model's context, measured in tokens before anything is sampled; nothing is ever truncated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer

from llm.chat import Chat
from llm.config import ModelConfig
from llm.data.prompts import Prompt
from llm.data.selection import Tally
from llm.embedded import from_pretrained
from llm.policy import Policy
from slhf.errors import ConfigError, InvalidData


def context_length(config: Any, tokenizer: Any) -> float:
    """How many tokens the model can read, as far as its configuration and its tokenizer say; else infinity."""
    return min(getattr(config.get_text_config(), "max_position_embeddings", math.inf), tokenizer.model_max_length)


@dataclass(frozen=True)
class Player:
    """Who is asked, and how long its conversations may get.

    Attributes:
        chat: its template.
        context: the most tokens it can read.
        longest: the most tokens of an answer.
        follows: whether it improves answers too.
    """

    chat: Chat
    context: float
    longest: int
    follows: bool = True

    @classmethod
    def of(cls, policy: Policy, longest: int, follows: bool = True) -> Player:
        """A policy that is loaded."""
        return cls(policy.chat, context_length(policy.model.config, policy.tokenizer), longest, follows)

    @classmethod
    def named(cls, model: ModelConfig, follows: bool = True) -> Player:
        """The policy that ``model`` describes; its weights are not loaded.

        Raises:
            MissingResource: it is neither here nor to be had from the hub.
        """
        tokenizer = from_pretrained(AutoTokenizer, model.name)
        context = context_length(from_pretrained(AutoConfig, model.name), tokenizer)
        return cls(Chat(tokenizer), context, model.max_new_tokens, follows)

    def tokens(self, prompt: str, given: str = "") -> int:
        """The most tokens of a conversation: prompt and answer, and where it follows the Follower's turn and reply.

        A template that rewrites earlier turns has the answer read again as text; that it is no more tokens then is
        the rule, and not certain.

        Args:
            prompt: what is asked.
            given: an answer from elsewhere.
        """
        if not self.follows:
            return len(self.chat.prompt(prompt)) + self.longest
        answer = max(self.longest, len(self.chat.given(given)) if given else 0)
        return len(self.chat.follower_prompt(prompt, [])) + answer + self.longest


def fitting(prompts: Sequence[str], players: Sequence[Player], given: Sequence[str] | None = None) -> list[int]:
    """The places of the prompts that all players can be asked; what is left out is counted and reported.

    Args:
        prompts: what is asked.
        players: who.
        given: answers from elsewhere, one for each prompt, that the players improve.

    Raises:
        InvalidData: none is left.
    """
    tally, kept = Tally("Prompts"), []
    tally.rows = len(prompts)
    for place, prompt in enumerate(prompts):
        reason = next(filter(None, (_unfit(prompt, one, given[place] if given else "") for one in players)), None)
        if reason is None:
            kept.append(place)
        else:
            tally.first.setdefault(reason, f" (first: {prompt.strip():.60})".replace("\n", " "))
            tally.drop(reason)
    if prompts and not kept:
        raise InvalidData(f"No prompt fits: {tally.summary()}. Shorten them or lower max_new_tokens.")
    tally.report(f"{len(kept):,}")
    return kept


def _unfit(prompt: str, player: Player, given: str) -> str | None:
    """Why a player cannot be asked; None if it can."""
    try:
        tokens = player.tokens(prompt, given)
    except ConfigError as error:
        if isinstance(prompt, Prompt) and isinstance(error.__cause__, TemplateError):
            return "with a system message, which the model's chat template does not take"
        raise
    if tokens <= player.context:
        return None
    added = f"an answer of {player.longest:,} tokens"
    if player.follows:
        added = f"{'a given answer' if given else added}, the Follower's turn and a reply of {player.longest:,} tokens"
    return f"that with {added} exceed the model's context of {int(player.context):,} tokens"
