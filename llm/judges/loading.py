"""From a judge's settings to the judge."""

from __future__ import annotations

from pathlib import Path

from llm.judges import Judge
from llm.judges.config import (
    ClassifierJudgeConfig,
    JudgeConfig,
    LocalLMJudgeConfig,
    PythonJudgeConfig,
    RewardEnsembleJudgeConfig,
    RewardModelJudgeConfig,
    ServerJudgeConfig,
)
from slhf.errors import MissingResource
from slhf.extras import install_command


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
    # imports here: heavy, and only for the judge that is used
    if isinstance(config, RewardModelJudgeConfig):
        from llm.judges.reward_model import RewardModelJudge

        return RewardModelJudge.load(config, device, remember)
    if isinstance(config, ClassifierJudgeConfig):
        from llm.judges.classifier import PairClassifierJudge

        return PairClassifierJudge.load(config, device, remember)
    if isinstance(config, LocalLMJudgeConfig):
        from llm.judges.local_lm import LocalLMJudge

        return LocalLMJudge.load(config, device, remember)
    if isinstance(config, ServerJudgeConfig):
        try:
            from llm.judges.server import ServerJudge
        except ModuleNotFoundError as error:
            raise MissingResource(f"{error}; a judge of kind server needs it: {install_command('judges')}") from error
        return ServerJudge(config, remember)
    if isinstance(config, RewardEnsembleJudgeConfig):
        from llm.judges.reward_ensemble import RewardEnsembleJudge

        return RewardEnsembleJudge.load(Path(config.path), device, config.preference, remember, config.dtype)
    if isinstance(config, PythonJudgeConfig):
        from llm.judges.python import PythonJudge

        return PythonJudge(config.target)
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember, config.dtype)
