"""A language model as a judge: it is shown both answers and asked for one letter.

Its preference is the probability of "A" against "B" at the first token of its reply; nothing is sampled and nothing
parsed. Only that token is computed: each text is read once, in batches of like length, and the vocabulary projection
sees one position a text.

A small model is a poor judge. The embedded SmolLM2-135M turned its verdict with the order in .88 of 135 comparisons (of
answers of 32 tokens, its own and those of a policy trained from it), put .24 of its probability on the two letters, and
its preferences lay between .40 and .67 (standard deviation .04): a faint signal to train on. The mean of both orders
agreed with the attribute judge in .80 [.72, .87] of the 114 that it decides; one order alone in .66.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.chat import render
from llm.embedded import from_pretrained
from llm.judges.config import QUESTION, LocalLMJudgeConfig, check_template
from llm.judges.sequences import check_lengths
from llm.judges.two_orders import Shown, TwoOrderJudge
from llm.lengths import context_length
from llm.microbatch import by_length
from llm.plain_generator import next_logits
from llm.precision import resolve
from slhf.errors import ConfigError

LETTERS = ("A", "B")
"""What the model may reply for the answer shown first and second."""


class LocalLMJudge(TwoOrderJudge):
    """f(a, b) = p("A") / (p("A") + p("B")) at the first token of the reply.

    Beside the metrics of the two orders there is ``letter_mass``, the mean of p("A") + p("B"): a model that puts
    little there did not understand the question.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: str = QUESTION,
        tokens_per_batch: int = 16_384,
        remember: bool = False,
    ) -> None:
        """Raises ``ConfigError`` if the tokenizer has no chat template or a letter is no single token there."""
        check_template(template)
        super().__init__(remember)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.template, self.tokens_per_batch = template, tokens_per_batch
        self.context = context_length(model.config, tokenizer)
        self.letters = self._letters()

    @classmethod
    def load(cls, config: LocalLMJudgeConfig, device: str, remember: bool = False) -> LocalLMJudge:
        """What ``config`` describes.

        Raises:
            MissingResource: the model is neither here nor to be had from the hub.
            ConfigError: see ``__init__``.
        """
        weights = getattr(torch, resolve(config.dtype, device))
        model = from_pretrained(AutoModelForCausalLM, config.model, dtype=weights).to(device)
        tokenizer = from_pretrained(AutoTokenizer, config.model)
        return cls(model, tokenizer, config.template, config.tokens_per_batch, remember)

    def first_wins(self, rows: Sequence[Shown]) -> np.ndarray:
        """See :class:`TwoOrderJudge`."""
        texts = [self._render(*row) for row in rows]
        ids = self._encode(texts)
        check_lengths(texts, ids, self.context - 1)
        parts = by_length([len(row) for row in ids], self.tokens_per_batch)
        found = np.concatenate([self._read([ids[i] for i in part]) for part in parts])
        logp = np.empty_like(found)
        logp[[i for part in parts for i in part]] = found
        self.meter.average("letter_mass", np.exp(logp).sum(1))
        return 1 / (1 + np.exp(logp[:, 1] - logp[:, 0]))

    def _read(self, rows: list[list[int]]) -> np.ndarray:
        """log p(letter) of the token after each row, float64, (len(rows), 2)."""
        logits = next_logits(self.model, rows, pad=self.letters[0])
        return logits.double().log_softmax(-1)[:, self.letters].cpu().numpy()

    def _render(self, x: str, first: str, second: str) -> str:
        message = {"role": "user", "content": self.template.format(prompt=x, a=first, b=second)}
        return render(self.tokenizer, [message], reply=True)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def _letters(self) -> list[int]:
        """The token of each letter where a reply starts."""
        question = self._render("prompt", "answer", "answer")
        before, *after = self._encode([question, *(question + letter for letter in LETTERS)])
        for letter, ids in zip(LETTERS, after, strict=True):
            if ids[:-1] != before or ids[-1] == self.tokenizer.unk_token_id:
                raise ConfigError(
                    f"The letter {letter} at the start of a reply is not one token of the judge "
                    f"{self.tokenizer.name_or_path!r}, so it has no probability to read off; use another model."
                )
        return [ids[-1] for ids in after]
