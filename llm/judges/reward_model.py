"""A Bradley-Terry reward model: one number for an answer, and p(a > b) = sigma(r(a) - r(b))."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from llm.chat import render
from llm.data.prompts import conversation
from llm.judges.config import RewardModelJudgeConfig
from llm.judges.meter import Meter
from llm.judges.sequences import SequenceClassifier
from slhf.errors import ConfigError


class RewardModelJudge:
    """A sequence classifier with one label, which reads prompt and answer in its own chat format."""

    def __init__(self, classifier: SequenceClassifier, remember: bool = False) -> None:
        """``remember`` keeps the reward of every text, for round robins that show the same texts again.

        Raises:
            ConfigError: the tokenizer has no chat template.
        """
        if classifier.tokenizer.chat_template is None:
            raise ConfigError(
                f"The reward model's tokenizer {classifier.tokenizer.name_or_path!r} has no chat template, so how it "
                "wants to see prompt and answer is not known; save it with the template that it was trained with."
            )
        self.classifier, self.remember, self.meter = classifier, remember, Meter()
        self._known: dict[tuple[str, str], float] = {}

    @classmethod
    def load(cls, config: RewardModelJudgeConfig, device: str, remember: bool = False) -> RewardModelJudge:
        """What ``config`` describes; see :meth:`SequenceClassifier.load` for what is refused."""
        classifier = SequenceClassifier.load(config.model, (1,), config.dtype, device, config.tokens_per_batch)
        return cls(classifier, remember)

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`."""
        with self.meter.comparing(len(prompts)):
            r = self.reward([*prompts, *prompts], [*a, *b])
            return expit(r[: len(prompts)] - r[len(prompts) :])

    def reward(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.RewardJudge`. Each distinct (prompt, answer) is read once."""
        rows = list(zip(prompts, answers, strict=True))
        known = self._known if self.remember else {}
        new = [row for row in dict.fromkeys(rows) if row not in known]
        texts = [
            render(self.classifier.tokenizer, [*conversation(x), {"role": "assistant", "content": y}]) for x, y in new
        ]
        known.update(zip(new, self.classifier.logits(texts, special_tokens=False)[:, 0].tolist(), strict=True))
        return np.array([known[row] for row in rows], dtype=np.float64)

    def drain_metrics(self) -> dict[str, float]:
        """See :class:`llm.judges.MeteredJudge`."""
        return self.meter.drain()
