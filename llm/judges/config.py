"""What a sweep's ``judge`` can say: one dataclass per kind, and how each becomes a judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal
from urllib.parse import urlsplit

from llm.judges import Judge
from slhf.errors import InvalidParameter, MissingResource, require_at_least


@dataclass(frozen=True)
class AttributeJudgeConfig:
    """Six measurable attributes of a text vote (embedded; see ``llm.judges.attributes``)."""

    kind: Literal["attributes"] = "attributes"


@dataclass(frozen=True)
class ServerJudgeConfig:
    """A language model behind an OpenAI-compatible server says which answer is better (see ``llm.judges.server``)."""

    url: str
    """Where its API starts, for example http://localhost:8000/v1."""
    model: str
    """The model's name there."""
    kind: Literal["server"] = "server"
    verdict: Literal["logprobs", "text"] = "logprobs"
    """"logprobs": the probability of "A" against "B" as the first token. "text": the letter that it writes, alone on
    the last line of its reply."""
    template: str = """\
Below are a message from a user and two replies to it. Judge which reply serves the user better: it is correct, \
relevant, clear and no longer than it has to be. Their order means nothing.

[Message]
{prompt}

[Reply A]
{a}

[Reply B]
{b}

Write the letter of the better reply, A or B, and nothing else."""
    """The question, with {prompt}, {a} and {b} where the texts go; a literal brace is written twice."""
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


def check_template(template: str) -> None:
    """Refuse a template that does not show the message and both replies.

    Raises:
        InvalidParameter: saying how to write it.
    """
    try:
        found = sorted(name for _, name, _, _ in Formatter().parse(template) if name is not None)
    except ValueError as error:
        found = [str(error)]
    if found != ["a", "b", "prompt"]:
        raise InvalidParameter(
            f"judge.template needs {{prompt}}, {{a}} and {{b}} once each and doubles all other braces; found {found}."
        )


JudgeConfig = AttributeJudgeConfig | ServerJudgeConfig
"""The union of all kinds."""


def load_judge(config: JudgeConfig, device: str, remember: bool = False) -> Judge:
    """The judge that ``config`` describes.

    Args:
        config: which kind, and its settings.
        device: where a local model runs.
        remember: whether it may keep what it has read, as in an evaluation that shows the same texts again.
    """
    # heavy imports only for the judge that is used
    if isinstance(config, ServerJudgeConfig):
        try:
            from llm.judges.server import ServerJudge
        except ModuleNotFoundError as error:
            raise MissingResource(f"{error}; a judge of kind server needs it: `pip install httpx2`.") from error
        return ServerJudge(config)
    from llm.judges.attributes import AttributeJudge

    return AttributeJudge(device, remember)
