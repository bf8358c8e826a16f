"""Sequence classifiers as judges use them: whole texts in, raw logits out, never a truncated or untrained one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llm.embedded import from_pretrained
from llm.microbatch import by_length
from llm.precision import Dtype, resolve
from slhf.errors import ConfigError, JudgeError


class SequenceClassifier:
    """Any ``AutoModelForSequenceClassification`` of ``transformers`` with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, tokens_per_batch: int = 16_384) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.tokens_per_batch = tokens_per_batch
        self.context = context_length(model.config, tokenizer)

    @classmethod
    def load(
        cls, name: str, labels: tuple[int, ...], dtype: Dtype, device: str, tokens_per_batch: int
    ) -> SequenceClassifier:
        """The model ``name``, a directory or a hub id.

        Args:
            name: which model.
            labels: how many labels it may have.
            dtype: of weights and computation (see ``llm.precision``).
            device: where to put it.
            tokens_per_batch: how many tokens, padding included, are read at a time.

        Raises:
            MissingResource: the model is neither here nor to be had from the hub.
            ConfigError: it has another number of labels, or its classification head was never trained.
        """
        found = from_pretrained(AutoConfig, name).num_labels
        if found not in labels:
            wanted = " or ".join(map(str, labels))
            raise ConfigError(f"The judge's model {name!r} has {found} labels; this kind of judge needs {wanted}.")
        weights = getattr(torch, resolve(dtype, device))
        model, report = from_pretrained(
            AutoModelForSequenceClassification, name, dtype=weights, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ConfigError(
                f"The judge's model {name!r} is no trained classifier: it has no weights for "
                f"{', '.join(sorted(report['missing_keys']))}, which would be random numbers."
            )
        return cls(model.to(device), from_pretrained(AutoTokenizer, name), tokens_per_batch)

    def logits(self, texts: Sequence[str], special_tokens: bool) -> np.ndarray:
        """float64, shape (batch, labels); each distinct text is read once.

        Args:
            texts: what to read.
            special_tokens: whether the tokenizer puts its own around a text; a chat template has them already.

        Raises:
            JudgeError: a text is longer than the model's context, or a logit is not finite.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, self.model.config.num_labels))
        ids = self.tokenizer(distinct, add_special_tokens=special_tokens)["input_ids"]
        check_lengths(distinct, ids, self.context)
        parts = by_length([len(row) for row in ids], self.tokens_per_batch)
        read = np.concatenate([self._read([ids[i] for i in part]) for part in parts])
        values = dict(zip([distinct[i] for part in parts for i in part], read, strict=True))
        for text, value in values.items():
            if not np.isfinite(value).all():
                raise JudgeError(f"The judge's model answered {value.tolist()} to the text {text!r}.")
        return np.stack([values[text] for text in texts])

    @torch.no_grad()
    def _read(self, rows: list[list[int]]) -> np.ndarray:
        """(len(rows), labels), of rows of like length, padded on the right.

        Decoders look for the last token that is not their padding. One that names no padding token means the last
        token of all; so for it we pad with a token in which no row ends, and tell it.
        """
        config = self.model.config.get_text_config()
        named = getattr(config, "pad_token_id", None)
        ends = {row[-1] for row in rows}
        padding = named if named is not None else next(i for i in itertools.count() if i not in ends)
        length = max(map(len, rows))
        ids = torch.tensor([row + [padding] * (length - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.model.device)
        config.pad_token_id = padding
        try:
            return self.model(input_ids=ids, attention_mask=mask).logits.double().cpu().numpy()
        finally:
            config.pad_token_id = named


def context_length(config: Any, tokenizer: Any) -> float:
    """How many tokens the model can read, as far as its configuration and its tokenizer say; else infinity."""
    return min(getattr(config.get_text_config(), "max_position_embeddings", math.inf), tokenizer.model_max_length)


def check_lengths(texts: Sequence[str], ids: Sequence[Sequence[int]], context: float) -> None:
    """Refuse a text that does not fit, and one without tokens; nothing is truncated.

    Raises:
        JudgeError: naming the text, its tokens and the context.
    """
    for text, row in zip(texts, ids, strict=True):
        if len(row) > context:
            raise JudgeError(
                f"A text of {len(row)} tokens is longer than the judge's context of {int(context)}; lower "
                f"max_new_tokens, shorten the prompts or take another judge. It begins {text[:80]!r}."
            )
        if not row:
            raise JudgeError(f"The judge's tokenizer makes no token of the text {text!r}.")
