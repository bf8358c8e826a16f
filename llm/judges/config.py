"""What a sweep's ``judge`` can say: one dataclass per kind. No torch; ``llm.judges.loading`` makes the judge.

``rewards`` says whether RLOO can be trained on the kind: whether the judge has a reward of its own (``RewardJudge``) or
features to fit one to (``FeatureJudge``).
"""

from __future__ import annotations

import re
import string
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from llm.judges import FeatureJudge, RewardJudge
from llm.judges.python import PythonJudge, digest, split
from llm.precision import Dtype
from slhf.errors import InvalidParameter, require_at_least

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
    """More fields of the request, as the server documents them; none that holds a secret."""
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
        if parts.scheme == "http" and self.api_key_env is not None and not loopback(parts.hostname):
            raise InvalidParameter(
                f"judge.url = {self.url}: the API key would cross the network unencrypted. Use https://, leave "
                "judge.api_key_env out, or reach the server through a tunnel to localhost."
            )
        if secrets := secret_names(self.extra):
            raise InvalidParameter(
                f"judge.extra names {', '.join(secrets)}: it is written into manifests and kept with the answers, so "
                "no secret may be in it. judge.api_key_env names the environment variable that holds the key."
            )
        check_template(self.template)


SECRETS = ("key", "apikey", "token", "auth", "authorization", "bearer", "password", "secret", "credentials")
"""Last words of the names of secrets."""
HARMLESS = ("prompt_cache_key",)
"""Fields of the OpenAI API that only look so."""


def loopback(host: str) -> bool:
    """Whether a host is this machine, so that nothing crosses a network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def secret_names(value: Any, path: str = "") -> list[str]:
    """The dotted paths of texts, at any depth, whose name is that of a secret: "api_key", "headers.Authorization"."""
    if isinstance(value, list):
        return [found for part in value for found in secret_names(part, path)]
    if isinstance(value, dict):
        return [found for name, part in value.items() for found in secret_names(part, f"{path}.{name}".lstrip("."))]
    name = path.rpartition(".")[2]
    last = re.split(r"[_\W]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))[-1].lower()
    return [path] if isinstance(value, str) and last in SECRETS and name not in HARMLESS else []


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
    left_out = HOW_TO_ASK if isinstance(config, ServerJudgeConfig) else ("tokens_per_batch",)
    settings = {name: value for name, value in asdict(config).items() if name not in left_out}
    if isinstance(config, PythonJudgeConfig):  # what the file says counts, not where it lies
        path, name = split(config.target)
        settings |= {"target": f"{path.name}:{name}", "sha256": digest(config.target)}
    return settings


def check_template(template: str) -> None:
    """A judge's template must show everything.

    Raises:
        InvalidParameter: it does not hold exactly the fields {prompt}, {a} and {b}.
    """
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise InvalidParameter(f"The judge's template is not a format text: {error}.") from error
    if found != {"prompt", "a", "b"}:
        raise InvalidParameter(
            "The judge's template must have the fields {prompt}, {a} and {b} and no other (write {{ and }} for "
            f"braces); it has: {', '.join(sorted(found)) or 'none'}."
        )
