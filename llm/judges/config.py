"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.judges import Judge
from slhf.errors import require_at_least


@dataclass(frozen=True)
class AttributeJudgeConfig:
    """Six measurable attributes of a text vote (embedded; see ``llm.judges.attributes``)."""

    kind: Literal["attributes"] = "attributes"


@dataclass(frozen=True)
class RewardModelJudgeConfig:
    """A Bradley-Terry reward model: a sequence classifier with one label (see ``llm.judges.reward_model``)."""

    model: str
    """A directory or a hub id."""
    kind: Literal["reward_model"] = "reward_model"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and of the computation."""
    tokens_per_batch: int = 16_384
    """How many tokens, padding included, are read at a time; one text at least."""

    def __post_init__(self) -> None:
        require_at_least(self, tokens_per_batch=1)


JudgeConfig = AttributeJudgeConfig | RewardModelJudgeConfig
"""The union of all kinds; a sweep's ``judge.kind`` says which."""

WITH_REWARD = (AttributeJudgeConfig, RewardModelJudgeConfig)
"""Judges with a reward for RLOO: their own (``RewardJudge``), or one that can be fitted (``FeatureJudge``)."""


def load_judge(config: JudgeConfig, device: str, remember: bool = False) -> Judge:
    """The judge that ``config`` describes.

    Args:
        config: which kind, and its settings.
        device: where a local model runs.
        remember: whether it may keep what it has read, as in an evaluation that shows the same texts again.

    Raises:
        MissingResource: a model or package that it needs is not there.
        ConfigError: the model is not of the kind that the judge needs.
    """
    if isinstance(config, RewardModelJudgeConfig):
        from llm.judges.reward_model import RewardModelJudge  # heavy imports only for the judge that is used

        return RewardModelJudge.load(config.model, config.dtype, device, config.tokens_per_batch, remember)
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember)
