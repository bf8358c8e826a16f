"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.judges import Judge


@dataclass(frozen=True)
class AttributeJudgeConfig:
    """Six measurable attributes of a text vote (embedded; see ``llm.judges.attributes``)."""

    kind: Literal["attributes"] = "attributes"


JudgeConfig = AttributeJudgeConfig
"""The union of all kinds."""


def load_judge(config: JudgeConfig, device: str, remember: bool = False) -> Judge:
    """The judge that ``config`` describes.

    Args:
        config: which kind, and its settings.
        device: where a local model runs.
        remember: whether it may keep what it has read, as in an evaluation that shows the same texts again.
    """
    from llm.judges.attributes import AttributeJudge  # heavy imports only for the judge that is used

    return AttributeJudge(device, remember)
