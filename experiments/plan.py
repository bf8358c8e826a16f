"""What a run will need before it is started: an estimate of memory and time on one 80 GB GPU.

Notation: N parameters, of which E = V d in an embedding; L layers of width d, MLP width f, H query heads and G
key-value heads of width w; b bytes per weight and activation (2 for bfloat16, 4 for float32); A adapter
parameters; per prompt k answers and m replies to each; B prompts per step. Lengths, in tokens: P the longest
prompt, n = ``max_new_tokens``, T a whole conversation. Answers are taken to be as long as they may be, so both
memory and time are upper ends; an answer that ends early costs less.

Memory (bytes), see :func:`memory`:

- weights: b N (all of them trained: b = 4)
- adapters: 4 A, twice where the roles have one each; trained parameters X: these, or N
- reference: nothing with adapters (it is the base without them), 4 A more where training starts from an adapter;
  4 N where all weights are trained
- gradients 4 X, Adam's two moments 8 X
- key-value cache: R C (bytes of one token's keys and values, 2 L G w b) for R conversations of T - 1 tokens; a
  mixture of policy and reference keeps two
- trunk: b d for every token of the update, where only the last layers are adapted
- activations kept for the backward pass, per token and layer (:func:`activations_per_token`), for the t tokens of
  a micro-batch; with gradient checkpointing b d per layer and one layer's in full
- output layer: a chunk of logits (``llm.logprobs``) and three vectors of d per scored token; while sampling, 24 V
  bytes per conversation (float32 logits and log-probabilities, float64 cumulative probabilities)
- the judge: SmolLM2-135M and MiniLM; and ``RESERVED`` for the CUDA context and libraries

The peak is what always stays plus the larger of sampling and update, times ``FRAGMENTATION``.

Time (seconds), see :func:`time_per_step`:

- decoding one token for R conversations: the larger of the bytes read (b N', N' without an untied input embedding,
  plus the cache as it is) over the memory bandwidth, of 2 N' R FLOPs over the FLOP rate, and of the time a CPU
  needs to launch L layers' kernels one by one
- reading T tokens: forward 2 (N - embeddings) T + 2 L H w T^2 (causal attention) FLOPs, and 2 E per token whose
  log-probability is wanted
- the update, through the adapted layers only: forward; backward once the forward with frozen weights (only
  activations' gradients) and twice it where all weights are trained; one more forward each for gradient
  checkpointing and for more than one micro-batch
- the reference reads what the update reads, once. The judge and the optimiser are left out.

The rates are the H100's (SXM, NVIDIA's data sheet) times a share that well-written eager PyTorch reaches; the
shares and the launch time are assumptions, not measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from experiments.config import LanguageModelSweep, runs_of
from experiments.shapes import Shape, shape_of
from llm.algorithms import check
from llm.config import ModelConfig
from llm.data import load_prompts
from llm.judges.config import AttributeJudgeConfig
from llm.logprobs import CHUNK_LOGITS_GPU
from llm.lora import LoRA, Sharing
from slhf.algorithms import EGPO, RLOO, SPO, SPPO, Algorithm, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.errors import ConfigError

GPU_BYTES = 80e9
"""Memory of the GPU."""
BANDWIDTH = 3.35e12 * 0.6
"""Bytes per second: HBM3 of an H100 SXM, times the share reached while decoding."""
FLOPS = {2: 989e12 * 0.4, 4: 67e12 * 0.6}
"""FLOPs per second by bytes per number: dense bfloat16 on tensor cores, and plain float32, each times a share."""
LAUNCH = 0.8e-3
"""Seconds to launch one layer's kernels from Python, without compilation or CUDA graphs."""
FRAGMENTATION = 1.1
"""What the allocator holds over what is used."""
RESERVED = 1.5e9
"""Bytes of the CUDA context, cuBLAS workspaces and the like."""
JUDGE = 1.0e9
"""Bytes of the attribute judge: 0.27 GB of SmolLM2-135M in bfloat16, 0.09 GB of MiniLM, and their activations."""
TURN_TOKENS = 32
"""Tokens of the Follower's instruction with its template; the same is added to a prompt for the chat template."""
CHARACTERS_PER_TOKEN = 3.5
"""Of English prompts, on the low side."""


@dataclass(frozen=True)
class Sampling:
    """One call that samples: R conversations grow from ``context`` tokens by n."""

    conversations: int
    """R."""
    context: int
    """Tokens in the cache when it starts."""
    read: int
    """Tokens of each that are read first; the rest of the context was in the cache already."""
    models: int = 1
    """2 where policy and reference are mixed at every token."""


@dataclass(frozen=True)
class Work:
    """What one step samples and what its update reads."""

    sampling: tuple[Sampling, ...]
    rows: int
    """Conversations that the update and the reference read."""
    length: int
    """T, tokens of each."""
    scored: int
    """Tokens of each whose log-probability is wanted."""


@dataclass(frozen=True)
class Estimate:
    """What one run of a sweep needs on one GPU; bytes and seconds."""

    algorithm: str
    model: str
    parameters: int
    trained: int
    """Parameters that are trained."""
    memory: dict[str, float]
    """Bytes by what holds them, each at its own peak."""
    peak: float
    """Bytes at the worst moment of a step."""
    seconds: dict[str, float]
    """Of one step by phase: "generate", "reference", "update"."""
    steps: int

    @property
    def fits(self) -> bool:
        """Whether the peak is within ``GPU_BYTES``."""
        return self.peak <= GPU_BYTES

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary, with the totals."""
        step = sum(self.seconds.values())
        totals = {"fits": self.fits, "seconds_per_step": step, "hours": step * self.steps / 3600}
        return {**asdict(self), **totals}


def plan(sweeps: Sequence[LanguageModelSweep]) -> list[Estimate]:
    """One estimate per run (sweep point and algorithm), in the order in which they would run.

    Raises:
        ConfigError: a run would be refused, or there is no estimate for it.
        MissingResource: nothing is known of the model.
    """
    found = []
    for sweep in sweeps:
        if sweep.model.sampler == "vllm":
            raise ConfigError('--plan knows nothing of model.sampler "vllm", whose engine holds memory of its own.')
        if not isinstance(sweep.judge, AttributeJudgeConfig):
            raise ConfigError(
                f"--plan knows the memory of the attribute judge, not of one of kind {sweep.judge.kind}; plan with "
                "judge: {kind: attributes} and add the other's own."
            )
        shape, prompt = shape_of(sweep.model.name), prompt_tokens(sweep)
        for planned in runs_of(sweep):
            check(planned.spec, planned.sweep.model.sharing, sweep.train.steps)
            found.append(estimate(planned.spec, planned.sweep, shape, prompt))
    return found


def prompt_tokens(sweep: LanguageModelSweep) -> int:
    """P: the longest training prompt in characters over ``CHARACTERS_PER_TOKEN``, with its template."""
    longest = max(map(len, load_prompts(sweep.prompts, "train")))
    return math.ceil(longest / CHARACTERS_PER_TOKEN) + TURN_TOKENS


def estimate(spec: Algorithm, sweep: LanguageModelSweep, shape: Shape, prompt: int) -> Estimate:
    """The estimate of one run.

    Args:
        spec: the algorithm.
        sweep: model settings and training settings.
        shape: of the model.
        prompt: P, tokens of a prompt.
    """
    work = work_of(spec, sweep.train.batch_size, prompt, sweep.model.max_new_tokens, sweep.model.sharing)
    trained = trained_parameters(shape, sweep.model)
    held = memory(shape, work, sweep)
    either = max(held["cache"] + held["sampling logits"], held["activations"] + held["output layer"])
    transient = ("cache", "sampling logits", "activations", "output layer")
    always = sum(value for name, value in held.items() if name not in transient)
    return Estimate(
        algorithm=spec.name,
        model=sweep.model.name,
        parameters=shape.parameters,
        trained=trained,
        memory=held,
        peak=RESERVED + (always + either) * FRAGMENTATION,
        seconds=time_per_step(shape, work, sweep),
        steps=sweep.train.steps,
    )


def work_of(spec: Algorithm, prompts: int, prompt: int, answer: int, sharing: Sharing = "one") -> Work:
    """What a step of ``spec`` samples and reads, every answer as long as it may be.

    Args:
        spec: the algorithm.
        prompts: B per step.
        prompt: P.
        answer: n.
        sharing: with "two" each role's adapter reads a row of its own; the Leader's is taken to be as long.

    Raises:
        ConfigError: the algorithm is not known here.
    """
    match spec:
        case StackelbergGDA(leader_samples=k, follower_samples=m):
            seen = prompt + answer + TURN_TOKENS
            leader = Sampling(prompts * k, prompt, prompt)
            follower = Sampling(prompts * k * m, seen, TURN_TOKENS)
            apart = 2 if sharing == "two" else 1
            return Work((leader, follower), apart * prompts * k * m, seen + answer, 2 // apart * answer)
        case NashMD(samples=k):
            policy, mixture = Sampling(prompts * k, prompt, prompt), Sampling(prompts * k, prompt, prompt, 2)
            return Work((policy, mixture), prompts * k, prompt + answer, answer)
        case RLOO(samples=k) | SPO(samples=k) | SPPO(samples=k):
            return Work((Sampling(prompts * k, prompt, prompt),), prompts * k, prompt + answer, answer)
        case EGPO(samples=pairs) | OnlineIPO(samples=pairs) | OnlineDPO(samples=pairs):
            k = 2 * pairs
            return Work((Sampling(prompts * k, prompt, prompt),), prompts * k, prompt + answer, answer)
    raise ConfigError(f"There is no estimate for {spec.name}.")


def trained_parameters(shape: Shape, model: ModelConfig) -> int:
    """X: all parameters, or those of the adapters.

    Raises:
        ConfigError: an adapter is asked for on a module that the model does not have.
    """
    if model.lora is None:
        return shape.parameters
    unknown = [name for name in model.lora.modules if name not in shape.modules()]
    if unknown:
        raise ConfigError(f"lora.modules: {model.name} has no {', '.join(unknown)}.")
    one = shape.adapter_parameters(model.lora.rank, model.lora.modules, model.lora.layers)
    return one * (2 if model.sharing == "two" else 1)


def memory(shape: Shape, work: Work, sweep: LanguageModelSweep) -> dict[str, float]:
    """Bytes by what holds them (module docstring), the allocator's own left out."""
    model, width, answer = sweep.model, bytes_per_number(sweep), sweep.model.max_new_tokens
    trained, weights = trained_parameters(shape, model), width * shape.parameters
    adapters = 0 if model.lora is None else 4 * trained
    frozen = adapters / (2 if model.sharing == "two" else 1) if model.start_from else 0
    layer = activations_per_token(shape, model.lora, width)
    depth = adapted_layers(shape, model)
    kept = depth * width * shape.hidden + layer if sweep.train.gradient_checkpointing else depth * layer
    final_norm = (4 + width) * shape.hidden
    tokens = micro_batch_tokens(work, sweep)
    scored = tokens * work.scored / work.length
    return {
        "weights": weights,
        "reference": weights if model.lora is None else frozen,
        "adapters": adapters,
        "gradients": 4 * trained,
        "Adam": 8 * trained,
        "trunk": 0 if depth == shape.layers else width * shape.hidden * work.rows * work.length,
        "judge": JUDGE,
        "cache": cache_per_token(shape, width)
        * max(s.models * s.conversations * (s.context + answer - 1) for s in work.sampling),
        "sampling logits": 24 * shape.vocabulary * max(s.conversations for s in work.sampling),
        "activations": tokens * (kept + final_norm),
        "output layer": CHUNK_LOGITS_GPU * (4 + 2 * width) + 3 * width * shape.hidden * scored,
    }


def adapted_layers(shape: Shape, model: ModelConfig) -> int:
    """How many layers the backward pass goes through."""
    return shape.layers if model.lora is None or model.lora.layers is None else model.lora.layers


def bytes_per_number(sweep: LanguageModelSweep) -> int:
    """b; "auto" as it is on the GPU that the plan is for."""
    auto = 4 if sweep.model.lora is None else 2
    return {"bfloat16": 2, "float32": 4, "auto": auto}[sweep.model.dtype]


def cache_per_token(shape: Shape, width: int) -> int:
    """C = 2 L G w b: bytes of the keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_width * width


def micro_batch_tokens(work: Work, sweep: LanguageModelSweep) -> int:
    """t: tokens, padding included, that one forward of the update reads; never less than one conversation."""
    whole, budget = work.rows * work.length, sweep.train.tokens_per_micro_batch
    return whole if budget is None else min(whole, max(work.length, budget // work.length * work.length))


def activations_per_token(shape: Shape, lora: LoRA | None, width: int) -> float:
    """Bytes that one layer keeps of one token for the backward pass.

    8 d: the float32 inputs of the two norms. Then, b bytes each: 2 d, what the norms give to the linear modules;
    2 H w, query and attention output; 2 G w, key and value; 4 f, gate, its SiLU, up, and their product; r for each
    adapter, or, for the gradient of the norms' weights, 2 d. Flash attention's 4 H and the norms' 8 come on top.
    """
    d, w = shape.hidden, shape.head_width
    numbers = 2 * d + 2 * (shape.heads + shape.kv_heads) * w + 4 * shape.intermediate
    numbers += 2 * d if lora is None else len(lora.modules) * lora.rank
    return 8 * d + width * numbers + 4 * shape.heads + 8


def time_per_step(shape: Shape, work: Work, sweep: LanguageModelSweep) -> dict[str, float]:
    """Seconds of each phase of a step (module docstring)."""
    model, width, answer = sweep.model, bytes_per_number(sweep), sweep.model.max_new_tokens
    passes = 1 + (2 if model.lora is None else 1)
    passes += 1 if sweep.train.gradient_checkpointing else 0
    passes += 1 if micro_batch_tokens(work, sweep) < work.rows * work.length else 0
    adapted = replace(shape, layers=adapted_layers(shape, model))
    reference, forward = (
        work.rows * read_flops(layers, work.length, work.scored) / FLOPS[width] for layers in (shape, adapted)
    )
    generate = 0.0
    for s in work.sampling:
        generate += s.models * s.conversations * read_flops(shape, s.read, 1) / FLOPS[width]
        generate += s.models * answer * decode_seconds(shape, s.conversations, s.context + answer / 2, width)
    return {"generate": generate, "reference": reference, "update": passes * forward}


def decode_seconds(shape: Shape, conversations: int, context: float, width: int) -> float:
    """Seconds to sample one more token in each of R conversations of ``context`` tokens."""
    used = shape.parameters - (0 if shape.tied else shape.embedding_parameters)
    read = width * used + conversations * context * cache_per_token(shape, width)
    work = conversations * (2 * used + 4 * shape.layers * shape.heads * shape.head_width * context)
    return max(read / BANDWIDTH, work / FLOPS[width], shape.layers * LAUNCH)


def read_flops(shape: Shape, length: int, scored: int) -> float:
    """FLOPs of one forward over one conversation, of which ``scored`` tokens reach the output layer."""
    body = shape.layers * sum(inputs * outputs for inputs, outputs in shape.modules().values())
    attention = 2 * shape.layers * shape.heads * shape.head_width * length**2
    return 2 * body * length + attention + 2 * shape.embedding_parameters * scored


def table(estimates: Sequence[Estimate]) -> str:
    """The estimates as Markdown: GB (10^9 bytes), seconds and hours."""
    rows = []
    for e in estimates:
        held = {name: value / 1e9 for name, value in e.memory.items()}
        seconds = sum(e.seconds.values())
        rows.append(
            {
                "algorithm": e.algorithm,
                "model": e.model,
                "parameters": f"{e.parameters / 1e6:,.0f} M",
                "weights": held["weights"],
                "reference, adapters, gradients, Adam": held["adapters"]
                + held["gradients"]
                + held["Adam"]
                + held["reference"],
                "cache": held["cache"],
                "activations": held["activations"],
                "output layer": held["output layer"],
                "peak GB": e.peak / 1e9,
                "fits 80 GB": "yes" if e.fits else "NO",
                **{f"{phase} s": value for phase, value in e.seconds.items()},
                "step s": seconds,
                "hours": seconds * e.steps / 3600,
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f")
