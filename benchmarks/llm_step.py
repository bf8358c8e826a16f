"""How long one training step of StackelbergGDA takes, against the same work done in two other ways.

    python benchmarks/llm_step.py                         # the embedded model on this machine, about 15 minutes
    python benchmarks/llm_step.py --quick                 # a smaller batch, one round: does it run?
    python benchmarks/llm_step.py --model qwen2.5-7b      # random weights of that shape, for a GPU
    python benchmarks/llm_step.py --adapters all          # LoRA on every linear layer, as in the paper

One step samples an answer and a reply for each prompt, reads them with policy and reference, and takes a gradient step:

- ours: `llm.generation`, `Policy.logprobs` and `stackelberg_gda`, as the training loop runs them;
- plain: what one writes first with `transformers` and `peft`: `generate` for the Leader and again for the Follower,
  four forward passes (two roles, policy and reference), log-softmax over all logits;
- trl: TRL's online DPO trainer, with two answers per prompt in place of answer and reply.

All have the same base weights in the same dtype, the same adapters, prompts and batch. A bias on the output layer
rules out the end of sequence, so that all generate and train the same number of answer tokens; the judge is free.
Each runs in a process of its own (for its peak memory), one step in turn; the medians leave out the first round. The
limits of the machine, memory bandwidth and FLOP/s of a matrix product, are measured between the rounds.

TRL is a peer, not a dependency: pip install --no-deps -r benchmarks/requirements.txt, or leave it out with
--without trl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from llm import embedded
from llm.algorithms import stackelberg_gda
from llm.chat import Chat
from llm.data import load_prompts
from llm.experience import Collector, to_go
from llm.generation import TransformersGenerator, TransformersSession
from llm.policy import LoRA, Policy, default_device, lora_config
from llm.precision import resolve
from slhf.algorithms import StackelbergGDA
from slhf.signals import follower_reward, leader_reward

HERE = Path(__file__).parent
METHODS = ("ours", "plain", "trl")
SPEC = StackelbergGDA(learning_rate=1e-4, timescale=2, tau_leader=0.01, tau_follower=0.01)
TEMPERATURE = 0.7
RULED_OUT = -1e4


QWEN: dict[str, Any] = {"model_type": "qwen2", "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5}


def shape(
    base: dict[str, Any], hidden: int, inner: int, layers: int, heads: int, kv: int, tied: bool
) -> dict[str, Any]:
    """A configuration from a family's constants and a model's sizes."""
    return {
        **base,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "qwen2.5-0.5b": shape(QWEN, 896, 4864, 24, 14, 2, True),
    "qwen2.5-1.5b": shape(QWEN, 1536, 8960, 28, 12, 2, True),
    "qwen2.5-3b": shape(QWEN, 2048, 11008, 36, 16, 2, True),
    "qwen2.5-7b": shape(QWEN, 3584, 18944, 28, 28, 4, False),
    "llama-3.1-8b": shape(LLAMA, 4096, 14336, 32, 32, 8, False),
    "tiny": shape({**LLAMA, "vocab_size": 512}, 64, 128, 4, 4, 2, True),
}
"""Published sizes; "tiny" is for testing this file."""

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} "
    "{% if m['role'] == 'assistant' %}<|end|> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def adapters(name: str, depth: int) -> LoRA:
    """ "quickstart": o_proj and down_proj of the last third of the layers; "all": every linear layer."""
    if name == "quickstart":
        return LoRA(rank=16, alpha=32, layers=depth // 3, modules=("o_proj", "down_proj"))
    return LoRA(rank=16, alpha=32)


class Constant:
    """A judge that costs nothing."""

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """Alternating preferences, so that no advantage vanishes."""
        return np.where(np.arange(len(prompts)) % 2 == 0, 0.7, 0.2)


def synthetic_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One word per token, with a chat template; for models whose weights are random anyway."""
    words = ["<|unknown|>", "<|end|>", "user", "assistant", *(f"w{i}" for i in range(size - 4))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unknown|>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|end|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        chat_template=TEMPLATE,
    )


def load(args: argparse.Namespace) -> tuple[Any, Any, list[str]]:
    """Base model, tokenizer and prompts; the same for every method."""
    device, dtype = default_device(), getattr(torch, args.dtype)
    if args.model == "embedded":
        path = str(embedded.model_path())
        tokenizer = AutoTokenizer.from_pretrained(path)
        base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        prompts = load_prompts("embedded", "train")[: args.batch]
    else:
        settings = dict(SHAPES[args.model])
        config = AutoConfig.for_model(settings.pop("model_type"), **settings, max_position_embeddings=8192)
        tokenizer = synthetic_tokenizer(settings["vocab_size"])
        config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
        torch.manual_seed(0)
        with torch.device(device):
            base = AutoModelForCausalLM.from_config(config, dtype=dtype)
        words = torch.randint(settings["vocab_size"] - 4, (args.batch, args.prompt_tokens)).tolist()
        prompts = [" ".join(f"w{i}" for i in row) for row in words]
    head = base.get_output_embeddings()
    bias = torch.zeros(len(head.weight), dtype=dtype, device=device)
    bias[tokenizer.eos_token_id] = RULED_OUT
    head.bias = torch.nn.Parameter(bias, requires_grad=False)
    torch.manual_seed(1)  # of the adapters
    return base, tokenizer, prompts


class Stopwatch:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add a block's time under ``name``, with the device's work finished."""
        start = now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + now() - start


def now() -> float:
    """Wall clock, once a GPU has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Ours:
    """The step as `llm.train` takes it."""

    def __init__(self, args: argparse.Namespace) -> None:
        base, tokenizer, self.prompts = load(args)
        self.lora = adapters(args.adapters, base.config.num_hidden_layers)
        self.tokens = args.new_tokens
        model = get_peft_model(base, lora_config(base, self.lora))
        self.policy = Policy(model, tokenizer, TEMPERATURE)
        generator = TransformersGenerator(self.policy, compile=args.compile)
        self.collector = Collector(self.policy, generator, Constant(), args.new_tokens, 0)
        self.optimizer = torch.optim.AdamW([p for _, p in self.policy.trainable()], lr=SPEC.learning_rate)
        self.keeps_trunk = not args.compile
        self.work: dict[str, float] = {}

    def step(self, number: int, watch: Stopwatch) -> None:
        """One step."""
        self.collector.seconds = watch.seconds
        with (
            timed(TransformersSession, "_catch_up", "read", watch),
            timed(TransformersSession, "_decode", "decode", watch),
        ):
            experience = stackelberg_gda.collect(SPEC, self.collector, self.prompts, number)
        with watch.phase("forward"):
            logp = self.policy.logprobs(experience.batch, experience.trunk)
            loss, _ = stackelberg_gda.loss(SPEC, logp, experience)
        with watch.phase("backward"):
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in self.policy.trainable()], 1.0)
            self.optimizer.step()
        assert int(experience.batch.scored.sum()) == 2 * len(self.prompts) * self.tokens
        if not self.work:
            self.work = work(self.policy, self.lora, experience.batch.ids.shape, self.tokens, kept=self.keeps_trunk)


def work(policy: Policy, lora: LoRA, shape: tuple[int, ...], new_tokens: int, kept: bool) -> dict[str, float]:
    """Bytes and floating point operations of our step, by formula: linear layers only, two per weight and token.

    ``kept``: the frozen trunk's states come from sampling, so that the reference need not read it.
    """
    rows, columns = shape
    layers = policy.decoder.layers
    weights = sum(p.numel() for n, p in layers[0].named_parameters() if "lora_" not in n)
    head = policy.head.weight.numel()
    whole = len(layers) * weights + head
    upper = lora.layers or len(layers)
    tokens, scored = rows * columns, 2 * rows * new_tokens
    lower = 0 if kept else (len(layers) - upper) * weights * tokens
    return {
        # each decoding step reads all weights once; the first token of each role comes with reading
        "decode_bytes": 2 * (new_tokens - 1) * whole * policy.head.weight.element_size(),
        "decode_flops": 2 * 2 * (new_tokens - 1) * rows * whole,
        "reference_flops": 2 * (lower + upper * weights * tokens + head * scored),
        "forward_flops": 2 * (upper * weights * tokens + 2 * head * scored),  # the head's gradient comes with it
        "backward_flops": 2 * upper * weights * tokens,  # of activations; the frozen weights have none
    }


class Plain:
    """The step as one writes it first."""

    def __init__(self, args: argparse.Namespace) -> None:
        base, self.tokenizer, self.prompts = load(args)
        self.tokenizer.padding_side = "left"
        self.chat, self.judge, self.new_tokens = Chat(self.tokenizer), Constant(), args.new_tokens
        self.model = get_peft_model(
            base, lora_config(base, adapters(args.adapters, base.config.num_hidden_layers))
        ).eval()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=SPEC.learning_rate)

    def step(self, number: int, watch: Stopwatch) -> None:
        """One step."""
        torch.manual_seed(number)
        prompts = [self.chat.prompt(x) for x in self.prompts]
        with watch.phase("generate"):
            answers = self.generate(prompts)
            contexts = [x + y + self.chat.turn(y) for x, y in zip(prompts, answers, strict=True)]
            replies = self.generate(contexts)
        p = torch.as_tensor(
            self.judge.prefer(self.prompts, self.texts(answers), self.texts(replies)), device=self.model.device
        ).float()
        with watch.phase("reference"), torch.no_grad(), self.model.disable_adapter():
            leader_base, follower_base = self.logprobs(prompts, answers), self.logprobs(contexts, replies)
        with watch.phase("forward"):
            leader, follower = self.logprobs(prompts, answers), self.logprobs(contexts, replies)
            loss = self.loss(p, leader, follower, leader_base, follower_base)
        with watch.phase("backward"):
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        assert sum(map(len, answers + replies)) == 2 * len(prompts) * self.new_tokens

    def texts(self, answers: list[list[int]]) -> list[str]:
        """What the judge reads."""
        return self.tokenizer.batch_decode(answers, skip_special_tokens=True)

    @torch.no_grad()
    def generate(self, contexts: list[list[int]]) -> list[list[int]]:
        """N new tokens for each context."""
        inputs = self.tokenizer.pad({"input_ids": contexts}, return_tensors="pt").to(self.model.device)
        out = self.model.generate(
            **inputs, max_new_tokens=self.new_tokens, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0
        )
        return out[:, inputs["input_ids"].shape[1] :].tolist()

    def logprobs(self, contexts: list[list[int]], answers: list[list[int]]) -> Tensor:
        """(B, N): of the answers' tokens; all answers have N tokens here."""
        rows = [x + y for x, y in zip(contexts, answers, strict=True)]
        inputs = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.model.device)
        logits = self.model(**inputs).logits[:, :-1].float() / TEMPERATURE
        logp = logits.log_softmax(-1).gather(-1, inputs["input_ids"][:, 1:, None]).squeeze(-1)
        return logp[:, -self.new_tokens :]

    def loss(self, p: Tensor, leader: Tensor, follower: Tensor, leader_base: Tensor, follower_base: Tensor) -> Tensor:
        """Both roles\' policy gradients."""
        leader_ratio, follower_ratio = (leader - leader_base).detach(), (follower - follower_base).detach()
        paid = follower_ratio.sum(1, keepdim=True)
        taus = {"tau_leader": SPEC.tau_leader, "tau_follower": SPEC.tau_follower}
        leader_advantage = leader_reward(p[:, None], paid, to_go(leader_ratio), **taus) - 0.5
        advantage = follower_reward(p[:, None], to_go(follower_ratio), tau_follower=SPEC.tau_follower) - 0.5
        return -((leader_advantage * leader).sum() + SPEC.timescale * (advantage * follower).sum()) / len(p)


class Trl:
    """A step of TRL's online DPO trainer: two answers per prompt, no Follower."""

    def __init__(self, args: argparse.Namespace) -> None:
        os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
        from datasets import Dataset
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

        base, tokenizer, self.prompts = load(args)
        self.new_tokens, self.completions = args.new_tokens, 0
        self.conversations = [[{"role": "user", "content": x}] for x in self.prompts]
        self.directory = tempfile.TemporaryDirectory()
        config = OnlineDPOConfig(
            output_dir=self.directory.name,
            per_device_train_batch_size=args.batch,
            max_new_tokens=args.new_tokens,
            max_length=8192,
            temperature=TEMPERATURE,
            learning_rate=SPEC.learning_rate,
            gradient_checkpointing=False,  # with it TRL generates without a key-value cache
            use_cpu=not torch.cuda.is_available(),
            bf16=False,  # the weights are in --dtype already, for all three
            report_to="none",
            disable_tqdm=True,
        )
        self.trainer: Any = OnlineDPOTrainer(
            model=base,
            reward_funcs=self.reward,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": x} for x in self.conversations]),
            processing_class=tokenizer,
            peft_config=lora_config(base, adapters(args.adapters, base.config.num_hidden_layers)),
        )
        self.parameters = [p for p in self.trainer.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=SPEC.learning_rate)

    def reward(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Costs nothing, and counts the tokens."""
        self.completions = sum(map(len, completion_ids))
        return [float(i % 2) for i in range(len(completion_ids))]

    def step(self, number: int, watch: Stopwatch) -> None:
        """One step."""
        torch.manual_seed(number)
        generate = self.trainer._generate

        def timed_generate(*args: Any) -> Any:
            with watch.phase("generate"):
                return generate(*args)

        self.trainer._generate = timed_generate
        start = now()
        self.trainer.training_step(self.trainer.model, {"prompt": self.conversations})
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        watch.seconds["reference, forward, backward"] = now() - start - watch.seconds["generate"]
        self.trainer._generate = generate
        assert self.completions == 2 * len(self.prompts) * self.new_tokens


@contextmanager
def timed(owner: type, method: str, name: str, watch: Stopwatch) -> Iterator[None]:
    """Count the time of every call of a method."""
    original = getattr(owner, method)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with watch.phase(name):
            return original(*args, **kwargs)

    setattr(owner, method, wrapper)
    try:
        yield
    finally:
        setattr(owner, method, original)


def limits(args: argparse.Namespace) -> dict[str, float]:
    """What this machine can do: bytes read a second, and FLOP/s of a matrix product in ``--dtype``; best of five."""
    device, dtype = default_device(), getattr(torch, args.dtype)
    big = torch.ones(2**26, device=device)
    x = torch.randn(2048, 2048, device=device, dtype=dtype)
    return {
        "bytes_per_second": big.numel() * big.element_size() / best(lambda: big.sum()),
        "flops_per_second": 2 * 2048**3 / best(lambda: x @ x),
    }


def best(function: Callable[[], Any]) -> float:
    """Seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = now()
        function()
        times.append(now() - start)
    return min(times)


def worker(method: str, args: argparse.Namespace, pipe: Any) -> None:
    """One method in its own process: a step for every number received, the seconds by phase sent back."""
    torch.set_num_threads(args.threads)
    kind: Any = {"ours": Ours, "plain": Plain, "trl": Trl}[method]
    runner = kind(args)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        watch = Stopwatch()
        start = now()
        runner.step(number, watch)
        watch.seconds["step"] = now() - start
        pipe.send(watch.seconds)
    memory = {"peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        memory["peak_device_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    pipe.send({**memory, **getattr(runner, "work", {})})


def receive(method: str, pipe: Any) -> Any:
    """What a method's process sends; the program ends if that process has."""
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"The process of {method!r} has ended; its error is above.") from None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every method's steps, in turn, and the machine's limits between the rounds."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for method in [method for method in METHODS if method not in args.without]:
        pipes[method], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(method, args, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that dies ends the wait for it
        receive(method, pipes[method])
    rounds: dict[str, list[dict[str, float]]] = {method: [] for method in pipes}
    machine = []
    for number in range(args.rounds + 1):
        for method, pipe in pipes.items():
            pipe.send(number)
            rounds[method].append(receive(method, pipe))
            print(f"round {number} {method:6}", {k: round(v, 2) for k, v in rounds[method][-1].items()}, flush=True)
        machine.append(limits(args))
    facts = {}
    for method, pipe in pipes.items():
        pipe.send(None)
        facts[method] = receive(method, pipe)
    for process in processes:
        process.join()
    return {
        "settings": {k: v for k, v in vars(args).items() if k != "without"},
        "machine": describe_machine(),
        "limits": {key: max(each[key] for each in machine) for key in machine[0]},
        "limits_by_round": machine,
        "warm_up": {method: each[0] for method, each in rounds.items()},
        "rounds": {method: each[1:] for method, each in rounds.items()},
        "facts": facts,
    }


def describe_machine() -> dict[str, Any]:
    """Processor or GPU, and versions."""
    names = [line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")]
    versions = {}
    for package in ("torch", "transformers", "peft", "accelerate", "trl"):
        if importlib.util.find_spec(package):
            versions[package] = metadata.version(package)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else (names or [platform.processor()])[0]
    return {"device": device, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def cpuinfo() -> list[str]:
    """Lines of the kernel's description of the processor; empty where there is none."""
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def median(rows: list[dict[str, float]], key: str) -> float:
    """Over rounds."""
    return statistics.median(row.get(key, 0.0) for row in rows)


def report(result: dict[str, Any]) -> str:
    """One result as Markdown."""
    settings, machine, rounds, limit = (result[key] for key in ("settings", "machine", "rounds", "limits"))
    tokens = 2 * settings["batch"] * settings["new_tokens"]
    lines = [
        f"**{settings['model']}**, {settings['dtype']}, adapters: {settings['adapters']}; {settings['batch']} prompts, "
        f"2 × {settings['new_tokens']} tokens each; {machine['device']}, {settings['threads']} threads; "
        f"{settings['rounds']} rounds; "
        + ", ".join(f"{k} {machine[k]}" for k in ("torch", "transformers", "peft", "trl") if k in machine)
        + ".",
        "",
        "| step | median s | min – max s | answer tokens/s | generate s | the rest s | peak GiB | ours is faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = median(rounds["ours"], "step")
    for method, rows in rounds.items():
        steps = [row["step"] for row in rows]
        ratios = [row["step"] / own["step"] for row, own in zip(rows, rounds["ours"], strict=True)]
        generate = median(rows, "generate")
        facts = result["facts"][method]
        memory = facts.get("peak_device_memory_gib", facts["peak_memory_gib"])
        faster = "" if method == "ours" else f"{statistics.median(ratios):.1f}× ({min(ratios):.1f} – {max(ratios):.1f})"
        lines.append(
            f"| {method} | {statistics.median(steps):.2f} | {min(steps):.2f} – {max(steps):.2f} | "
            f"{tokens / statistics.median(steps):.0f} | {generate:.2f} | {statistics.median(steps) - generate:.2f} | "
            f"{memory:.1f} | {faster} |"
        )
    lines += ["", *phases(rounds["ours"], result["facts"]["ours"], limit, ours), ""]
    return "\n".join(lines)


def phases(rows: list[dict[str, float]], facts: dict[str, float], limit: dict[str, float], step: float) -> list[str]:
    """Where our time goes, against the limits."""
    bandwidth, flops = limit["bytes_per_second"], limit["flops_per_second"]
    lines = [
        f"Where our time goes. The machine reads {bandwidth / 1e9:.1f} GB/s and multiplies at {flops / 1e9:.0f} "
        "GFLOP/s (measured between the rounds, best); the floor is the time its limits allow for the phase's "
        "weights and linear layers.",
        "",
        "| phase | median s | share | floor s | fraction of the limit |",
        "|---|---|---|---|---|",
    ]
    floors = {
        "decode": max(facts["decode_bytes"] / bandwidth, facts["decode_flops"] / flops),
        **{phase: facts[f"{phase}_flops"] / flops for phase in ("reference", "forward", "backward")},
    }
    for phase in ("read", "decode", "judge", "reference", "forward", "backward"):
        seconds = median(rows, phase)
        floor = f"{floors[phase]:.2f} | {floors[phase] / seconds:.0%}" if phase in floors else " | "
        lines.append(f"| {phase} | {seconds:.2f} | {seconds / step:.0%} | {floor} |")
    return lines


BEGIN, END = "<!-- llm_step: written by benchmarks/llm_step.py -->", "<!-- end of llm_step -->"


def write_readme(readme: Path, results: list[Path]) -> None:
    """Put the tables of all results between the markers, leaving the rest of the file as it is."""
    text = readme.read_text(encoding="utf-8") if readme.exists() else "# Benchmarks\n"
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## llm_step.py: one training step on a language model\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n".join(report(json.loads(path.read_text(encoding="utf-8"))) for path in results)
    readme.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", choices=["embedded", *SHAPES])
    parser.add_argument(
        "--adapters",
        default="quickstart",
        choices=["quickstart", "all"],
        help="quickstart: o_proj and "
        "down_proj of the last 10 layers, as in experiments/sweeps/quickstart.yaml; all: every layer",
    )
    parser.add_argument("--batch", type=int, default=24, help="prompts a step")
    parser.add_argument("--new-tokens", type=int, default=32, help="of each answer and of each reply")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="of each prompt, for random weights")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=5, help="counted steps of each method, after one that is not")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="decode ours through torch.compile (for GPUs)")
    parser.add_argument("--without", nargs="*", default=[], choices=METHODS[1:], help="leave a peer out on purpose")
    parser.add_argument("--quick", action="store_true", help="4 prompts, 8 tokens, one round; nothing is written")
    args = parser.parse_args()
    args.dtype = resolve(args.dtype, default_device())
    if args.quick:
        args.batch, args.new_tokens, args.rounds = 4, 8, 1
    if "trl" not in args.without and importlib.util.find_spec("trl") is None:
        parser.error(
            "TRL is missing: pip install --no-deps -r benchmarks/requirements.txt, or leave it out with --without trl"
        )
    return args


def main() -> None:
    """Measure, print, and keep the result."""
    args = parse()
    torch.set_num_threads(args.threads)
    result = measure(args)
    print(report(result))
    if args.quick:
        return
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    path = HERE / "results" / f"llm_step_{args.model}_{args.adapters}_{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_readme(HERE / "README.md", sorted(path.parent.glob("llm_step_*.json")))


if __name__ == "__main__":
    main()
