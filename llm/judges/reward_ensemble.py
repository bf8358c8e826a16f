"""Several reward models vote: K LoRA reward heads on one base model, one for each attribute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import expit

from llm.judges.meter import Meter
from llm.judges.sequences import check_lengths
from llm.precision import Dtype
from llm.reward_heads import RewardHeads

READ_TOKENS = 2**11
"""Most tokens, padding included, of one forward pass; the adapted layers read them once for each head."""


class RewardEnsembleJudge:
    """p(a > b) from the rewards r_k of K attributes (its features); ``llm.reward_heads`` says how they are computed.

    - "share": the share of attributes on which a has the greater reward, ties counting one half (arXiv 2512.16626,
      Section 5, counts a tie in favour of a, which is the same for rewards that never tie, and not symmetric else);
    - "mean_sigmoid": the mean of sigma(r_k(a) - r_k(b)), each head's Bradley-Terry probability.
    """

    def __init__(
        self, heads: RewardHeads, preference: Literal["share", "mean_sigmoid"] = "share", remember: bool = False
    ) -> None:
        """``remember`` keeps the rewards of every text, for round robins that show the same texts again.

        Not for training where the base is in bfloat16, see :class:`llm.judges.attributes.AttributeJudge`.
        """
        self.heads, self.preference, self.remember, self.meter = heads, preference, remember, Meter()
        self._known: dict[tuple[str, str], np.ndarray] = {}

    @classmethod
    def load(
        cls,
        directory: Path,
        device: str = "cpu",
        preference: Literal["share", "mean_sigmoid"] = "share",
        remember: bool = False,
        dtype: Dtype = "auto",
    ) -> RewardEnsembleJudge:
        """The judge in a directory that ``experiments/train_reward.py`` wrote; raises as ``RewardHeads.load``."""
        return cls(RewardHeads.load(directory, device, dtype), preference, remember)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The attributes."""
        return self.heads.attributes

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`."""
        with self.meter.comparing(len(prompts)):
            rewards = self.features([*prompts, *prompts], [*a, *b])
            difference = rewards[: len(prompts)] - rewards[len(prompts) :]
            wins = expit(difference) if self.preference == "mean_sigmoid" else (np.sign(difference) + 1) / 2
            self.meter.votes(self.feature_names, wins)
            return wins.mean(-1)

    def features(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """The rewards, float64, shape (batch, K). Each distinct (prompt, answer) is read once.

        Raises:
            JudgeError: a text is longer than the base model can read.
        """
        rows = list(zip(prompts, answers, strict=True))
        known = self._known if self.remember else {}
        new = [row for row in dict.fromkeys(rows) if row not in known]
        if new:
            known.update(zip(new, self._read(new), strict=True))
        return np.stack([known[row] for row in rows]) if rows else np.empty((0, len(self.feature_names)))

    def drain_metrics(self) -> dict[str, float]:
        """See :class:`llm.judges.MeteredJudge`; ``agreement_NAME``: how often an attribute is with the verdict."""
        return self.meter.drain()

    def _read(self, rows: Sequence[tuple[str, str]]) -> np.ndarray:
        texts = [self.heads.encode([{"role": "user", "content": x}], y) for x, y in rows]
        check_lengths([f"{x} {y}" for x, y in rows], texts, self.heads.longest)
        return self.heads.rewards(texts, READ_TOKENS).T.double().numpy()
