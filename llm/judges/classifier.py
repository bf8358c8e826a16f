"""A pairwise classifier: a sequence classifier that reads the prompt and both answers in one text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from llm.judges.config import PAIR_TEXT, ClassifierJudgeConfig, check_template
from llm.judges.sequences import SequenceClassifier
from llm.judges.two_orders import Shown, TwoOrderJudge
from slhf.errors import ConfigError


class PairClassifierJudge(TwoOrderJudge):
    """One label: its logit is that of the first answer's win. Two: label ``winner`` says that the first one wins."""

    def __init__(
        self, classifier: SequenceClassifier, template: str = PAIR_TEXT, winner: int = 0, remember: bool = False
    ) -> None:
        check_template(template)
        super().__init__(remember)
        self.classifier, self.template, self.winner = classifier, template, winner

    @classmethod
    def load(cls, config: ClassifierJudgeConfig, device: str, remember: bool = False) -> PairClassifierJudge:
        """What ``config`` describes.

        Raises:
            MissingResource, ConfigError: see :meth:`SequenceClassifier.load`.
            ConfigError: ``winner`` is given for a model with one label, whose logit is that of the first one's win.
        """
        classifier = SequenceClassifier.load(config.model, (1, 2), config.dtype, device, config.tokens_per_batch)
        if config.winner and classifier.model.config.num_labels == 1:
            raise ConfigError(
                f"judge.winner = {config.winner}, but the judge's model {config.model!r} has one label, whose logit is "
                "taken as that of the first answer's win. Leave judge.winner out, or give a model with two labels."
            )
        return cls(classifier, config.template, config.winner, remember)

    def first_wins(self, rows: Sequence[Shown]) -> np.ndarray:
        """See :class:`TwoOrderJudge`."""
        texts = [self.template.format(prompt=x, a=first, b=second) for x, first, second in rows]
        logits = self.classifier.logits(texts, special_tokens=True)
        if logits.shape[1] == 1:
            return expit(logits[:, 0])
        return expit(logits[:, self.winner] - logits[:, 1 - self.winner])
