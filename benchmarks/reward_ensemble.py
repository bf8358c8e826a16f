"""How long the reward ensemble takes to compare pairs of answers, against one text and one adapter at a time.

    python benchmarks/reward_ensemble.py            # K = 5 heads on the embedded model, about 3 minutes
    python benchmarks/reward_ensemble.py --quick    # a few pairs, one round: does it run?

Contestants read the same pairs of answers with the same K adapters (untrained scores, so that nothing depends on a
training run) and must give the same rewards:

- ours: `llm.judges.reward_ensemble`;
- batched: `peft` and `transformers`, one adapter at a time, all texts in right-padded batches;
- one at a time: `peft` and `transformers`, one adapter at a time, one text at a time. Each adapter is switched to once,
  not once a text, which would take longer.

They take turns in one process; ratios are medians over rounds. The floor is the time in which the machine, at the rate
of a large matrix product measured between the rounds, multiplies our tokens by our weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from benchmarks.llm_step import describe_machine
from benchmarks.measure import write_section
from llm import embedded
from llm.data import load_prompts
from llm.judges.reward_ensemble import READ_TOKENS, RewardEnsembleJudge
from llm.policy import LoRA
from llm.precision import Dtype
from llm.prefix_tree import plant
from llm.reward_heads import RewardHeads, batches

HERE = Path(__file__).parent
OURS, BATCHED, SINGLE = "ours", "batched", "one at a time"
SHAPES = {"last 2 layers": 2, "last 10 layers": 10, "all 30 layers": None}


def ensemble(directory: Path, heads: int, layers: int | None, dtype: Dtype) -> RewardEnsembleJudge:
    """Heads with every parameter away from 0, saved and loaded as a trained ensemble would be."""
    lora = LoRA(rank=16, alpha=32.0, layers=layers)
    made = RewardHeads.create("embedded", [f"attribute-{k}" for k in range(heads)], lora, dtype, "cpu", seed=0)
    torch.manual_seed(0)
    for name, x in made.parameters().items():
        if not name.endswith("low"):
            x.copy_(torch.randn(x.shape) * 0.02)
    made.save(directory)
    return RewardEnsembleJudge.load(directory, dtype=dtype)


class Plain:
    """The same heads by ``peft`` alone."""

    def __init__(self, directory: Path, judge: RewardEnsembleJudge, dtype: str) -> None:
        self.judge, self.attributes = judge, judge.feature_names
        base = AutoModelForSequenceClassification.from_pretrained(
            embedded.model_path(), num_labels=1, dtype=getattr(torch, dtype)
        )
        first, *others = self.attributes
        self.model = PeftModel.from_pretrained(base, str(directory / first), adapter_name=first).eval()
        for name in others:
            self.model.load_adapter(str(directory / name), adapter_name=name)

    @torch.no_grad()
    def rewards(self, prompts: list[str], answers: list[str], budget: int) -> np.ndarray:
        """(texts, K); a text is read alone if ``budget`` is 0, else in padded batches of so many tokens."""
        encode = self.judge.heads.encode
        texts = [encode([{"role": "user", "content": x}], y) for x, y in zip(prompts, answers, strict=True)]
        parts: list[list[int]] = []
        for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
            if not parts or len(texts[parts[-1][0]]) * (len(parts[-1]) + 1) > budget:
                parts.append([])
            parts[-1].append(i)
        out = np.empty((len(texts), len(self.attributes)))
        for k, name in enumerate(self.attributes):
            self.model.set_adapter(name)
            for part in parts:
                longest = max(len(texts[i]) for i in part)
                ids = torch.tensor([texts[i] + [self.judge.heads.pad] * (longest - len(texts[i])) for i in part])
                mask = torch.tensor([[1] * len(texts[i]) + [0] * (longest - len(texts[i])) for i in part])
                out[part, k] = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().numpy()
        return out


def pairs(count: int, words: int) -> tuple[list[str], list[str], list[str]]:
    """Prompts and two answers to each, of ``words`` / 2 to ``words`` words taken from other prompts."""
    prompts = load_prompts("embedded", "train")[:count]
    rng, vocabulary = np.random.default_rng(0), " ".join(load_prompts("embedded", "heldout")).split()

    def answer() -> str:
        return " ".join(rng.choice(vocabulary, size=rng.integers(words // 2, words + 1)))

    return prompts, [answer() for _ in prompts], [answer() for _ in prompts]


def work(judge: RewardEnsembleJudge, prompts: list[str], answers: list[str]) -> dict[str, float]:
    """Multiplications and additions of the linear layers: ours, and one text and adapter at a time."""
    heads = judge.heads
    texts = [heads.encode([{"role": "user", "content": x}], y) for x, y in zip(prompts, answers, strict=True)]
    parts = list(batches(plant(texts), READ_TOKENS))
    tokens = sum(len(part) * len(part[0].tokens) for part in parts)
    count, layers = len(heads.attributes), heads.decoder.layers
    plain = [sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear)) for layer in layers]
    feed_forward = sum(m.weight.numel() for m in layers[-1].mlp.modules() if isinstance(m, nn.Linear))
    adapters = sum(x[0].numel() for x in [*heads.low.values(), *heads.up.values()])
    lower, upper = sum(plain[: heads.first]), sum(plain[heads.first :]) - feed_forward + adapters
    return {
        "tokens": sum(map(len, texts)),
        "tokens_read": tokens,
        "flop": 2 * (tokens * (lower + count * upper) + count * len(texts) * feed_forward),
        "flop_one_at_a_time": 2 * sum(map(len, texts)) * count * (sum(plain) + adapters),
    }


def measure(args: argparse.Namespace, layers: int | None, dtype: Dtype) -> dict[str, Any]:
    """All contestants in turn: seconds by contestant and round, the greatest difference of rewards, and the work."""
    prompts, a, b = pairs(args.pairs, args.words)
    asked, answers = [*prompts, *prompts], [*a, *b]
    with tempfile.TemporaryDirectory() as folder:
        judge = ensemble(Path(folder) / "ensemble", args.heads, layers, dtype)
        plain = Plain(Path(folder) / "ensemble", judge, dtype)
    contestants: dict[str, Callable[[], np.ndarray]] = {
        OURS: lambda: judge.features(asked, answers),
        BATCHED: lambda: plain.rewards(asked, answers, READ_TOKENS),
        SINGLE: lambda: plain.rewards(asked, answers, 0),
    }
    judge.features(asked[:2], answers[:2])
    plain.rewards(asked[:2], answers[:2], 0)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    found, rates = {}, []
    for _ in range(args.rounds):
        for name, call in contestants.items():
            start = clock()
            found[name] = call()
            seconds[name].append(clock() - start)
        rates.append(matrix_rate(dtype, clock))
    difference = max(float(np.abs(found[name] - found[OURS]).max()) for name in contestants)
    return {
        "dtype": dtype,
        "seconds": seconds,
        "greatest_difference": difference,
        "spread": float(found[OURS].std(0).min()),
        "flops_per_second": max(rates),
        **work(judge, asked, answers),
    }


def matrix_rate(dtype: str, clock: Callable[[], float]) -> float:
    """FLOP/s of a large matrix product, the best of five."""
    x, seconds = torch.randn(1024, 1024, dtype=getattr(torch, dtype)), []
    for _ in range(5):
        start = clock()
        x @ x
        seconds.append(clock() - start)
    return 2 * 1024**3 / min(seconds)


def report(result: dict[str, Any]) -> str:
    """One result as Markdown."""
    settings, machine = result["settings"], result["machine"]
    lines = [
        f"K = {settings['heads']} heads of rank 16 on SmolLM2-135M, {settings['pairs']} pairs with answers of "
        f"{settings['words'] // 2} to {settings['words']} words; {machine['device']}, {settings['threads']} threads; "
        f"{settings['rounds']} rounds; torch {machine['torch']}, transformers {machine['transformers']}, "
        f"peft {machine['peft']}. Median seconds ({settings['clock']} time); times slower than ours: median over "
        "rounds (least – most).",
        "",
        "| adapters on | dtype | ours s | batched s | one at a time s | batched slower | one at a time slower | "
        "FLOP saved | ours at share of the machine's FLOP/s | greatest difference (spread) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, row in result["results"]:
        seconds = {name: statistics.median(values) for name, values in row["seconds"].items()}
        ratios = {
            name: [x / y for x, y in zip(row["seconds"][name], row["seconds"][OURS], strict=True)]
            for name in (BATCHED, SINGLE)
        }
        slower = [f"{statistics.median(r):.1f}× ({min(r):.1f} – {max(r):.1f})" for r in ratios.values()]
        used = row["flop"] / row["flops_per_second"] / seconds[OURS]
        lines.append(
            f"| {shape} | {row['dtype']} | {' | '.join(f'{s:.2f}' for s in seconds.values())} | "
            f"{' | '.join(slower)} | {row['flop_one_at_a_time'] / row['flop']:.1f}× | {used:.0%} | "
            f"{row['greatest_difference']:.0e} ({row['spread']:.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--words", type=int, default=40, help="of the longest answers; the shortest have half of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for a busy machine; one thread"
    )
    parser.add_argument("--quick", action="store_true", help="4 pairs, one round; nothing is written")
    args = parser.parse_args()
    if args.quick:
        args.pairs, args.rounds = 4, 1
    if args.clock == "cpu" and args.threads > 1:
        parser.error("--clock cpu adds up what all threads take; use it with --threads 1")
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = [(shape, measure(args, SHAPES[shape], dtype)) for shape in args.shapes for dtype in args.dtypes]
    result = {"settings": vars(args), "machine": describe_machine(), "load": os.getloadavg()[0], "results": results}
    print(report(result))
    if not args.quick:
        path = HERE / "results" / "reward_ensemble.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        write_section(HERE / "README.md", "reward_ensemble", report(result))


if __name__ == "__main__":
    main()
