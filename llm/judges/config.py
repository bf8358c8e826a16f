"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm.judges import Judge


@dataclass(frozen=True)
class AttributeJudgeConfig:
    """Six measurable attributes of a text vote (embedded; see ``llm.judges.attributes``)."""

    kind: Literal["attributes"] = "attributes"


@dataclass(frozen=True)
class RewardEnsembleConfig:
    """LoRA reward heads on one base model vote, one for each attribute; ``experiments/train_reward.py`` trains them."""

    path: str
    """Directory of a trained ensemble."""
    kind: Literal["reward_ensemble"] = "reward_ensemble"
    preference: Literal["share", "mean_sigmoid"] = "share"
    """p(a > b) is the share of attributes on which a has the greater reward, or the mean of sigma(r(a) - r(b))."""


JudgeConfig = AttributeJudgeConfig | RewardEnsembleConfig
"""The union of all kinds."""


def load_judge(config: JudgeConfig, device: str, remember: bool = False) -> Judge:
    """The judge that ``config`` describes.

    Args:
        config: which kind, and its settings.
        device: where a local model runs.
        remember: whether it may keep what it has read, as in an evaluation that shows the same texts again.
    """
    # heavy imports only for the judge that is used
    if isinstance(config, RewardEnsembleConfig):
        from llm.judges.reward_ensemble import RewardEnsembleJudge

        return RewardEnsembleJudge.load(Path(config.path), device, config.preference, remember)
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember)
