"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge.

``rewards`` says whether RLOO can be trained on the kind: whether the judge has a reward of its own (``RewardJudge``) or
features to fit one to (``FeatureJudge``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llm.judges import Judge
from llm.judges.two_orders import check_template
from slhf.errors import require_at_least

PAIR_TEXT = "<|source|>{prompt}<|candidate1|>{a}<|candidate2|>{b}"
"""What a pairwise classifier reads unless the config says otherwise, with PairRM's marks (arXiv 2306.02561); the
tokenizer puts its own special tokens around it."""

QUESTION = """\
Here are an instruction and two answers to it.

Instruction: {prompt}

Answer A: {a}

Answer B: {b}

Which answer is better? Reply with the letter A or B alone."""
"""What a language model that judges is asked unless the config says otherwise, as a user's message."""


@dataclass(frozen=True)
class AttributeJudgeConfig:
    """Six measurable attributes of a text vote (embedded; see ``llm.judges.attributes``)."""

    kind: Literal["attributes"] = "attributes"
    rewards: ClassVar[bool] = True


@dataclass(frozen=True)
class RewardModelJudgeConfig:
    """A Bradley-Terry reward model: a sequence classifier with one label (see ``llm.judges.reward_model``)."""

    model: str
    """A directory or a hub id."""
    kind: Literal["reward_model"] = "reward_model"
    rewards: ClassVar[bool] = True
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and of the computation."""
    tokens_per_batch: int = 16_384
    """How many tokens, padding included, are read at a time; one text at least."""

    def __post_init__(self) -> None:
        require_at_least(self, tokens_per_batch=1)


@dataclass(frozen=True)
class ClassifierJudgeConfig:
    """A sequence classifier that reads the prompt and both answers (see ``llm.judges.classifier``)."""

    model: str
    """A directory or a hub id; one label, or two."""
    kind: Literal["classifier"] = "classifier"
    rewards: ClassVar[bool] = False
    template: str = PAIR_TEXT
    """The text that it reads, with the fields {prompt}, {a} and {b}: as it was trained."""
    winner: Literal[0, 1] = 0
    """With two labels: the one which says that a is better than b."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and of the computation."""
    tokens_per_batch: int = 16_384
    """How many tokens, padding included, are read at a time; one text at least."""

    def __post_init__(self) -> None:
        require_at_least(self, tokens_per_batch=1)
        check_template(self.template)


@dataclass(frozen=True)
class LocalLMJudgeConfig:
    """A language model that replies A or B (see ``llm.judges.local_lm``)."""

    model: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct: a poor judge), a directory, or a hub id."""
    kind: Literal["local_lm"] = "local_lm"
    rewards: ClassVar[bool] = False
    template: str = QUESTION
    """The question, with the fields {prompt}, {a} and {b}; the answers must be called A and B."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights and of the computation."""
    tokens_per_batch: int = 16_384
    """How many tokens, padding included, are read at a time; one text at least."""

    def __post_init__(self) -> None:
        require_at_least(self, tokens_per_batch=1)
        check_template(self.template)


JudgeConfig = AttributeJudgeConfig | RewardModelJudgeConfig | ClassifierJudgeConfig | LocalLMJudgeConfig
"""The union of all kinds; a sweep's ``judge.kind`` says which."""


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
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember)
