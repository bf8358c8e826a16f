"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge.

``rewards`` says whether RLOO can be trained on the kind: whether the judge has a reward of its own (``RewardJudge``) or
features to fit one to (``FeatureJudge``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from llm.judges import FeatureJudge, Judge, RewardJudge
from llm.judges.python import PythonJudge, digest, split
from llm.judges.two_orders import check_template
from llm.precision import Dtype
from slhf.errors import InvalidParameter, MissingResource, require_at_least

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
    dtype: Dtype = "auto"
    """Of the language model that measures fluency: "auto" for bfloat16 where the device has units for it, else
    float32."""


@dataclass(frozen=True)
class RewardEnsembleJudgeConfig:
    """LoRA reward heads on one base model vote, one for each attribute; ``experiments/train_reward.py`` trains them."""

    path: str
    """Directory of a trained ensemble."""
    kind: Literal["reward_ensemble"] = "reward_ensemble"
    rewards: ClassVar[bool] = True
    preference: Literal["share", "mean_sigmoid"] = "share"
    """p(a > b) is the share of attributes on which a has the greater reward, or the mean of sigma(r(a) - r(b))."""
    dtype: Dtype = "auto"
    """Of the base's weights: "auto" for bfloat16 where the device has units for it, else float32. Heads are float32."""


@dataclass(frozen=True)
class RewardModelJudgeConfig:
    """A Bradley-Terry reward model: a sequence classifier with one label (see ``llm.judges.reward_model``)."""

    model: str
    """A directory or a hub id."""
    kind: Literal["reward_model"] = "reward_model"
    rewards: ClassVar[bool] = True
    dtype: Dtype = "auto"
    """Of the weights and of the computation: "auto" for bfloat16 where the device has units for it, else float32."""
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
    dtype: Dtype = "auto"
    """Of the weights and of the computation: "auto" for bfloat16 where the device has units for it, else float32."""
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
    dtype: Dtype = "auto"
    """Of the weights and of the computation: "auto" for bfloat16 where the device has units for it, else float32."""
    tokens_per_batch: int = 16_384
    """How many tokens, padding included, are read at a time; one text at least."""

    def __post_init__(self) -> None:
        require_at_least(self, tokens_per_batch=1)
        check_template(self.template)


@dataclass(frozen=True)
class ServerJudgeConfig:
    """A language model behind an OpenAI-compatible server says which answer is better (see ``llm.judges.server``)."""

    url: str
    """Where its API starts, for example http://localhost:8000/v1."""
    model: str
    """The model's name there."""
    kind: Literal["server"] = "server"
    rewards: ClassVar[bool] = False
    verdict: Literal["logprobs", "text"] = "logprobs"
    """"logprobs": the probability of "A" against "B" as the first token. "text": the letter that it writes, alone on
    the last line of its reply."""
    template: str = QUESTION
    """The question, with the fields {prompt}, {a} and {b}; the answers must be called A and B."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key; null for a server without one."""
    temperature: float | None = 0.0
    """Sampling temperature; null to leave it to the server."""
    max_tokens: int | None = 16
    """With verdict "text": the longest reply; null to leave it to the server."""
    top_logprobs: int = 20
    """With verdict "logprobs": among how many candidates for the first token to look for the two letters."""
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    """More fields of the request, as the server documents them."""
    concurrency: int = 8
    """Requests at a time."""
    timeout_seconds: float = 60.0
    """How long to wait for an answer."""
    retries: int = 6
    """How often a question is asked again after a failure that may pass."""
    first_wait: float = 1.0
    """Seconds before the first retry; each further one waits twice as long, at most ``longest_wait``. A random half of
    it is left out, and what the server asks for (Retry-After) comes on top."""
    longest_wait: float = 60.0
    """In seconds. A server that asks for more ends the run."""
    failure_budget: int = 10
    """How many times in the run a question may fail with all its retries and be put back to the end of the queue; one
    more ends the run."""
    prompt_price: float = 0.0
    """Per million tokens, in any currency; for the metric ``judge_cost``."""
    completion_price: float = 0.0
    """Per million tokens."""
    cache: str | None = None
    """File that keeps every answer, so that none is paid for twice; null for one in the user's cache directory."""

    def __post_init__(self) -> None:
        require_at_least(self, max_tokens=1, top_logprobs=2, concurrency=1, retries=0, failure_budget=0)
        require_at_least(self, temperature=0, prompt_price=0, completion_price=0, first_wait=0)
        require_at_least(self, longest_wait=self.first_wait)
        if not self.timeout_seconds > 0:
            raise InvalidParameter(f"ServerJudgeConfig.timeout_seconds = {self.timeout_seconds}: must be positive.")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise InvalidParameter(
                "judge.url must look like http://localhost:8000/v1, without a key in it (api_key_env names the "
                "environment variable that holds the key)."
            )
        check_template(self.template)


@dataclass(frozen=True)
class PythonJudgeConfig:
    """A function or an object of your own (see ``llm.judges.python``)."""

    target: str
    """FILE.py:NAME: a function prefer(prompts, a, b), or an object or a class with that method. A relative path in a
    sweep file starts from that file's folder."""
    kind: Literal["python"] = "python"

    def __post_init__(self) -> None:
        split(self.target)

    @property
    def rewards(self) -> bool:
        """Whether what the file defines has ``reward`` or ``features``; loads it, and raises as that does."""
        return isinstance(PythonJudge(self.target), RewardJudge | FeatureJudge)


JudgeConfig = (
    AttributeJudgeConfig
    | RewardEnsembleJudgeConfig
    | RewardModelJudgeConfig
    | ClassifierJudgeConfig
    | LocalLMJudgeConfig
    | ServerJudgeConfig
    | PythonJudgeConfig
)
"""The union of all kinds; a sweep's ``judge.kind`` says which."""


HOW_TO_ASK = (
    "concurrency",
    "timeout_seconds",
    "retries",
    "first_wait",
    "longest_wait",
    "failure_budget",
    "prompt_price",
    "completion_price",
    "cache",
)
"""Settings of a server judge that do not change what it says."""


def identity(config: JudgeConfig) -> dict[str, Any]:
    """What the judge's answers depend on: a run is named by it, and goes on after any other setting has changed."""
    settings = asdict(config)
    if isinstance(config, ServerJudgeConfig):
        for name in HOW_TO_ASK:
            del settings[name]
    if isinstance(config, PythonJudgeConfig):  # what the file says counts, not where it lies
        path, name = split(config.target)
        settings |= {"target": f"{path.name}:{name}", "sha256": digest(config.target)}
    return settings


def load_judge(config: JudgeConfig, device: str, remember: bool = False) -> Judge:
    """The judge that ``config`` describes.

    Args:
        config: which kind, and its settings.
        device: where a local model runs.
        remember: whether it may keep what it has read, as in an evaluation that shows the same texts again.

    Raises:
        MissingResource: a model, file or package that it needs is not there.
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
            raise MissingResource(f"{error}; a judge of kind server needs it: `pip install httpx2`.") from error
        return ServerJudge(config, remember)
    if isinstance(config, RewardEnsembleJudgeConfig):
        from llm.judges.reward_ensemble import RewardEnsembleJudge

        return RewardEnsembleJudge.load(Path(config.path), device, config.preference, remember, config.dtype)
    if isinstance(config, PythonJudgeConfig):
        return PythonJudge(config.target)
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember, config.dtype)
