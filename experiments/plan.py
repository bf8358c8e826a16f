"""What a run will need before it is started: an estimate of memory and time, on one 80 GB GPU or on this machine.

Notation: N parameters, of which E = V d in an embedding; L layers of width d, MLP width f, H query heads and G
key-value heads of width w; b bytes per weight and activation (2 for bfloat16, 4 for float32); A adapter
parameters; per prompt k answers and m replies to each; B prompts per step. Lengths, in tokens: P the longest
prompt, n = ``max_new_tokens``, T a whole conversation. Answers are taken to be as long as they may be, so both
memory and time are upper ends; an answer that ends early costs less.

Memory (bytes), see :func:`memory`, by what holds it at its own peak:

- weights: b N (all of them trained: b = 4)
- adapters: 4 A, twice where the roles have one each; trained parameters X: these, or N
- reference: nothing with adapters (it is the base without them), 4 A more where training starts from an adapter;
  4 N where all weights are trained
- gradients 4 X, Adam's two moments 8 X
- key-value cache: R C (bytes of one token's keys and values, 2 L G w b) for R conversations of T tokens; a mixture of
  policy and reference keeps two. Beside it, one layer's keys and values for every query head (:func:`sampling`)
- trunk: b d for every token of the update, where only the last layers are adapted
- activations kept for the backward pass, per token and layer (:func:`activations_per_token`), for the t tokens of
  a micro-batch; with gradient checkpointing b d per layer and one layer's in full; the adapters' copies in b bytes,
  where b = 2; and, but for the output layer, what one layer's backward pass works with, 2 b (d + f) a token
- output layer: a chunk of logits (``llm.logprobs``) and three vectors of d per scored token; while sampling, 24 V
  bytes per conversation (float32 logits and what is drawn from), 24 V more for a mixture
- the judge: SmolLM2-135M and MiniLM, what they work with for ``TOKENS_AT_A_TIME`` tokens, and a chunk of logits

The peaks (:func:`peaks`) are of four moments, each with what always stays: sampling, judging, the update (the
reference reads the same rows and keeps less), and the evaluation, which holds no gradients and no Adam and samples at
most ``experiments.evaluation.TOKENS_AT_ONCE`` tokens together. The peak is the greatest, times what the allocator
holds over what is used, plus what the device's libraries take.

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

The GPU's rates are the H100's (SXM, NVIDIA's data sheet) times a share that well-written eager PyTorch reaches; the
shares and the launch time are assumptions, not measurements. This machine's are measured (:func:`this_machine`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoTokenizer

from experiments.config import LanguageModelSweep, runs_of
from experiments.evaluation import TOKENS_AT_ONCE
from experiments.shapes import HUB, Shape, shape_of
from llm import embedded
from llm.algorithms import check
from llm.chat import Chat
from llm.config import ModelConfig
from llm.data import load_prompts
from llm.generation import READ_TOKENS
from llm.judges.attributes import TOKENS_AT_A_TIME
from llm.judges.config import AttributeJudgeConfig
from llm.logprobs import CHUNK_LOGITS, CHUNK_LOGITS_GPU
from llm.lora import LoRA, Sharing
from llm.precision import has_units
from slhf.algorithms import EGPO, RLOO, SPO, SPPO, Algorithm, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.errors import ConfigError

TURN_TOKENS = 48
"""Tokens of the Follower's instruction with its template, at most."""
TEMPLATE_TOKENS = 48
"""What another model's template may add to a prompt over the embedded model's (a system prompt, dates)."""
LONGEST = 32
"""How many prompts, the longest in characters, are tokenised to find the longest in tokens."""
FLUENCY = HUB["HuggingFaceTB/SmolLM2-135M-Instruct"]
"""The judge's language model."""
ENCODER = 22_713_216
"""Parameters of all-MiniLM-L6-v2, in float32."""
KERNELS = 40
"""Kernels of a layer that decodes, about."""


@dataclass(frozen=True)
class Machine:
    """What a plan is for."""

    name: str
    bytes: float
    """Its memory."""
    bandwidth: float
    """Bytes read per second while decoding."""
    flops: dict[int, float]
    """FLOPs per second by bytes per number: bfloat16 and float32."""
    launch: float
    """Seconds to start one layer's kernels from Python, without compilation or CUDA graphs."""
    fragmentation: float
    """What the allocator holds over what is used."""
    reserved: float
    """Bytes of Python, libraries and contexts."""
    chunk: int
    """Logits that ``llm.logprobs`` computes at a time."""
    auto: int
    """Bytes of a weight with ``dtype: auto``."""


GPU = Machine(
    name="one 80 GB GPU (assumed: H100 SXM, shares of its data sheet)",
    bytes=80e9,
    bandwidth=3.35e12 * 0.6,
    flops={2: 989e12 * 0.4, 4: 67e12 * 0.6},
    launch=0.8e-3,
    fragmentation=1.1,
    reserved=1.5e9,
    chunk=CHUNK_LOGITS_GPU,
    auto=2,
)


def this_machine() -> Machine:
    """The processor here, its speed measured in a few seconds with the threads that torch uses."""
    wide, x, small = torch.ones(2**26), torch.randn(1024, 1024), torch.ones(64)
    return Machine(
        name=f"this machine's processor ({torch.get_num_threads()} threads, measured)",
        bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        bandwidth=wide.nbytes / _fastest(lambda: wide.sum()),
        flops={b: 2 * 1024**3 / _fastest(partial(_square, x.to(dtype))) for b, dtype in NUMBERS.items()},
        launch=KERNELS * _fastest(lambda: [small + 1 for _ in range(1000)]) / 1000,
        fragmentation=1.1,
        reserved=0.6e9,
        chunk=CHUNK_LOGITS,
        auto=2 if has_units("cpu") else 4,
    )


NUMBERS = {2: torch.bfloat16, 4: torch.float32}
"""By bytes."""


def _square(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def _fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


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
    """What one run of a sweep needs; bytes and seconds."""

    algorithm: str
    model: str
    parameters: int
    trained: int
    """Parameters that are trained."""
    memory: dict[str, float]
    """Bytes by what holds them, each at its own peak."""
    peaks: dict[str, float]
    """Bytes that the process holds at the worst moment of "sampling", "judge", "update" and "evaluation"."""
    seconds: dict[str, float]
    """Of one step by phase: "generate", "reference", "update"."""
    steps: int
    machine: Machine

    @property
    def peak(self) -> float:
        """The greatest of the peaks."""
        return max(self.peaks.values())

    @property
    def fits(self) -> bool:
        """Whether the machine has that much."""
        return self.peak <= self.machine.bytes

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary, with the totals."""
        step = sum(self.seconds.values())
        totals = {"peak": self.peak, "fits": self.fits, "seconds_per_step": step, "hours": step * self.steps / 3600}
        return {**asdict(self), **totals}


def plan(sweeps: Sequence[LanguageModelSweep], machine: Machine = GPU) -> list[Estimate]:
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
            found.append(estimate(planned.spec, planned.sweep, shape, prompt, machine))
    return found


def prompt_tokens(sweep: LanguageModelSweep) -> int:
    """P: of the longest prompt, with its template; by the embedded model's tokenizer, if the model's own is not here.

    The embedded tokenizer knows 49,152 pieces and makes more tokens of a text than one that knows 100,000.
    """
    prompts = sorted((x for split in ("train", "heldout") for x in load_prompts(sweep.prompts, split)), key=len)
    own = sweep.model.name == "embedded" or Path(sweep.model.name).is_dir()
    path = sweep.model.name if own and sweep.model.name != "embedded" else str(embedded.model_path())
    chat = Chat(AutoTokenizer.from_pretrained(path))
    return max(len(chat.prompt(x)) for x in prompts[-LONGEST:]) + (0 if own else TEMPLATE_TOKENS)


def estimate(spec: Algorithm, sweep: LanguageModelSweep, shape: Shape, prompt: int, machine: Machine = GPU) -> Estimate:
    """The estimate of one run.

    Args:
        spec: the algorithm.
        sweep: model settings and training settings.
        shape: of the model.
        prompt: P, tokens of a prompt.
        machine: where.
    """
    work = work_of(spec, sweep.train.batch_size, prompt, sweep.model.max_new_tokens, sweep.model.sharing)
    trained = trained_parameters(shape, sweep.model)
    held = memory(shape, work, sweep, machine) | evaluation_memory(spec, shape, sweep, prompt, machine)
    return Estimate(
        algorithm=spec.name,
        model=sweep.model.name,
        parameters=shape.parameters,
        trained=trained,
        memory=held,
        peaks=peaks(held, machine),
        seconds=time_per_step(shape, work, sweep, machine),
        steps=sweep.train.steps,
        machine=machine,
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


def peaks(held: dict[str, float], machine: Machine) -> dict[str, float]:
    """Bytes that the process holds at each moment's worst, given :func:`memory` and :func:`evaluation_memory`."""
    models = held["weights"] + held["reference"] + held["adapters"] + held["judge"]
    training = models + held["gradients"] + held["Adam"]
    moments = {
        "sampling": training + held["cache"] + held["sampling"],
        "judge": training + held["trunk"] + held["judging"],
        "update": training + held["trunk"] + held["activations"] + max(held["backward"], held["output layer"]),
        "evaluation": models + max(held["evaluation"], held["judging"]),
    }
    return {name: machine.reserved + machine.fragmentation * value for name, value in moments.items()}


def memory(shape: Shape, work: Work, sweep: LanguageModelSweep, machine: Machine = GPU) -> dict[str, float]:
    """Bytes by what holds them (module docstring), the allocator's own left out."""
    model, width, answer = sweep.model, bytes_per_number(sweep, machine), sweep.model.max_new_tokens
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
        "judge": machine.auto * FLUENCY.parameters + 4 * ENCODER,
        "judging": judging(answer, machine),
        "cache": max(cache(shape, s, answer, width) for s in work.sampling),
        "sampling": max(sampling(shape, s, answer, width) for s in work.sampling),
        "activations": tokens * (kept + final_norm) + (width * trained if width == 2 else 0),
        "backward": 2 * width * tokens * (shape.hidden + shape.intermediate),
        "output layer": machine.chunk * (4 + 2 * width) + 3 * width * shape.hidden * scored,
    }


def evaluation_memory(
    spec: Algorithm, shape: Shape, sweep: LanguageModelSweep, prompt: int, machine: Machine
) -> dict[str, float]:
    """What sampling held-out answers, or the pairs that RLOO fits its reward to, takes beside the models; bytes."""
    settings, width, answer = sweep.evaluation, bytes_per_number(sweep, machine), sweep.model.max_new_tokens
    seen, copies = prompt + answer + TURN_TOKENS, max(settings.samples or 1, settings.rounds if settings.parity else 1)

    def at_once(context: int, each: int) -> Sampling:
        rows = each * min(settings.prompts, max(1, TOKENS_AT_ONCE // each // (context + answer)))
        return Sampling(rows, context, context)

    calls = [at_once(prompt, copies), at_once(seen, 1)]
    if isinstance(spec, RLOO):
        calls.append(Sampling(2 * sweep.reward.pairs, prompt, prompt))
    return {"evaluation": max(cache(shape, s, answer, width) + sampling(shape, s, answer, width) for s in calls)}


def cache(shape: Shape, s: Sampling, answer: int, width: int) -> float:
    """Bytes of keys and values."""
    return s.models * s.conversations * (s.context + answer) * cache_per_token(shape, width)


def sampling(shape: Shape, s: Sampling, answer: int, width: int) -> float:
    """Bytes that one call of a sampler works with beside the cache.

    The logits and what a token is drawn from, 24 V a conversation; and the larger of decoding, which copies one layer's
    keys and values for every query head (half of them lie beside themselves when the cache grows), and of reading at
    most ``READ_TOKENS`` tokens, with their mask.
    """
    columns, groups = s.context + answer, shape.heads / shape.kv_heads
    layer = s.conversations * columns * cache_per_token(shape, width) / shape.layers
    tokens = min(s.conversations * s.read, max(READ_TOKENS, s.read))
    drawing = 24 * s.models * shape.vocabulary * s.conversations
    read = reading(shape, tokens, width) + tokens * s.context * (1 + width)
    return drawing + max(max(1, groups) * layer, read)


def judging(answer: int, machine: Machine) -> float:
    """Bytes that the judge works with: the larger of reading texts, with their mask, and of three chunks of logits."""
    mask = TOKENS_AT_A_TIME * answer * (1 + machine.auto)
    states = 2 * machine.auto * TOKENS_AT_A_TIME * FLUENCY.hidden
    return max(reading(FLUENCY, TOKENS_AT_A_TIME, machine.auto) + mask, machine.chunk * (8 + machine.auto) + states)


def reading(shape: Shape, tokens: int, width: int) -> float:
    """Bytes that a pass without gradient works with: per token 5 d, three of f, and the rotation's 2 w."""
    return tokens * width * (5 * shape.hidden + 3 * shape.intermediate + 2 * shape.head_width)


def adapted_layers(shape: Shape, model: ModelConfig) -> int:
    """How many layers the backward pass goes through."""
    return shape.layers if model.lora is None or model.lora.layers is None else model.lora.layers


def bytes_per_number(sweep: LanguageModelSweep, machine: Machine = GPU) -> int:
    """b; "auto" as it is on the machine that the plan is for."""
    auto = 4 if sweep.model.lora is None else machine.auto
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


def time_per_step(shape: Shape, work: Work, sweep: LanguageModelSweep, machine: Machine = GPU) -> dict[str, float]:
    """Seconds of each phase of a step (module docstring)."""
    model, width, answer = sweep.model, bytes_per_number(sweep, machine), sweep.model.max_new_tokens
    rate = machine.flops[width]
    passes = 1 + (2 if model.lora is None else 1)
    passes += 1 if sweep.train.gradient_checkpointing else 0
    passes += 1 if micro_batch_tokens(work, sweep) < work.rows * work.length else 0
    adapted = replace(shape, layers=adapted_layers(shape, model))
    reference, forward = (
        work.rows * read_flops(layers, work.length, work.scored) / rate for layers in (shape, adapted)
    )
    generate = 0.0
    for s in work.sampling:
        generate += s.models * s.conversations * read_flops(shape, s.read, 1) / rate
        generate += s.models * answer * decode_seconds(shape, s.conversations, s.context + answer / 2, width, machine)
    return {"generate": generate, "reference": reference, "update": passes * forward}


def decode_seconds(shape: Shape, conversations: int, context: float, width: int, machine: Machine = GPU) -> float:
    """Seconds to sample one more token in each of R conversations of ``context`` tokens."""
    used = shape.parameters - (0 if shape.tied else shape.embedding_parameters)
    read = width * used + conversations * context * cache_per_token(shape, width)
    work = conversations * (2 * used + 4 * shape.layers * shape.heads * shape.head_width * context)
    return max(read / machine.bandwidth, work / machine.flops[width], shape.layers * machine.launch)


def read_flops(shape: Shape, length: int, scored: int) -> float:
    """FLOPs of one forward over one conversation, of which ``scored`` tokens reach the output layer."""
    body = shape.layers * sum(inputs * outputs for inputs, outputs in shape.modules().values())
    attention = 2 * shape.layers * shape.heads * shape.head_width * length**2
    return 2 * body * length + attention + 2 * shape.embedding_parameters * scored


def table(estimates: Sequence[Estimate]) -> str:
    """The estimates as Markdown: for which machine, then GB (10^9 bytes), seconds and hours."""
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
                **{f"peak of {moment}": value / 1e9 for moment, value in e.peaks.items()},
                f"fits {estimates[0].machine.bytes / 1e9:.0f} GB": "yes" if e.fits else "NO",
                **{f"{phase} s": value for phase, value in e.seconds.items()},
                "step s": seconds,
                "hours": seconds * e.steps / 3600,
            }
        )
    return f"On {estimates[0].machine.name}:\n\n" + pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1f")
