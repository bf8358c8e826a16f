"""Training reward heads on preferences: one Bradley-Terry model for each attribute, all on one base, in one go.

The heads have no parameter in common and gradients are clipped head by head, so each is trained as if alone; only the
base model's work is shared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, ndtri
from torch import Tensor
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from llm import checkpoint
from llm.data import Comparison, Message
from llm.lora import LoRA
from llm.prefix_tree import Tree, TreeBatch, plant
from llm.reward_heads import RewardHeads, batches
from slhf.errors import InvalidData, InvalidParameter, TrainingError, require_at_least
from slhf.intervals import LEAST, LEVEL, Bounds, percentile
from slhf.runs import Run, derive_seed, write_directory

KEPT_BYTES = 2**30
"""The frozen layers' work on the training texts is kept for all epochs if it takes no more than this."""
READ_TOKENS = 2**12
"""Most tokens of one forward pass without gradient, padding included."""
NUMBERS_AT_A_TIME = 2**22
"""Bootstrap resamples are drawn in groups whose arrays hold no more."""


@dataclass(frozen=True)
class RewardTrainConfig:
    """How reward heads are trained; the defaults are the paper's (arXiv 2512.16626), meant for a GPU."""

    lora: LoRA = LoRA(rank=32, alpha=64.0)
    """Shape of each head's adapter."""
    learning_rate: float = 1e-4
    """Of AdamW without weight decay; it falls along a line to zero over the run."""
    epochs: int = 5
    """Passes over the training comparisons."""
    batch_size: int = 32
    """Conversations per step, each with all of its answers and comparisons."""
    centring: float = 0.01
    """Coefficient of (r_chosen + r_rejected)^2, which keeps rewards around 0 (arXiv 2312.09244)."""
    max_grad_norm: float = 1.0
    """Each head's gradient is scaled down to this norm."""
    tokens_per_micro_batch: int = 4096
    """Tokens (padding included) that one forward pass reads; the gradient is the same for any value."""

    def __post_init__(self) -> None:
        require_at_least(self, epochs=1, batch_size=1, centring=0, tokens_per_micro_batch=1)
        if not (self.learning_rate > 0 and self.max_grad_norm > 0):
            raise InvalidParameter("RewardTrainConfig: learning_rate and max_grad_norm must be positive.")


SMALL = RewardTrainConfig(LoRA(rank=16, alpha=32.0, layers=2), learning_rate=1e-3, epochs=4, batch_size=8)
"""For the embedded model on a CPU: only the last layers are adapted, so that the heads share most of the work."""


@dataclass(frozen=True)
class Judged:
    """A conversation, its distinct answers, and triples (attribute, chosen, rejected) of their numbers."""

    conversation: tuple[Message, ...]
    answers: tuple[str, ...]
    comparisons: tuple[tuple[int, int, int], ...]


def gather(preferences: Mapping[str, Sequence[Comparison]]) -> list[Judged]:
    """The comparisons of all attributes by conversation, in the order of first appearance.

    Raises:
        InvalidData: an attribute has no comparison.
    """
    found: dict[str, tuple[tuple[Message, ...], dict[str, int], list[tuple[int, int, int]]]] = {}
    for k, (attribute, comparisons) in enumerate(preferences.items()):
        if not comparisons:
            raise InvalidData(f"There is no comparison by {attribute!r} in one of the splits; give more data.")
        for c in comparisons:
            _, answers, triples = found.setdefault(json.dumps(c.conversation), (c.conversation, {}, []))
            chosen, rejected = (answers.setdefault(text, len(answers)) for text in (c.chosen, c.rejected))
            triples.append((k, chosen, rejected))
    return [Judged(conversation, tuple(answers), tuple(t)) for conversation, answers, t in found.values()]


@dataclass(frozen=True)
class Example:
    """A judged conversation as the model reads it; ends of trees and comparisons name texts by the same numbers."""

    trees: tuple[Tree, ...]
    comparisons: Tensor
    """(n, 3), int64: attribute, chosen text, rejected text."""


def prepare(heads: RewardHeads, judged: Sequence[Judged]) -> tuple[list[Example], int]:
    """Token ids of everything, and how many comparisons are left out because a text is too long for the model.

    Raises:
        InvalidData: none is left.
    """
    examples, left_out, numbers = [], 0, 0
    for item in judged:
        texts = [heads.encode(item.conversation, answer) for answer in item.answers]
        kept = [t for t in item.comparisons if max(len(texts[t[1]]), len(texts[t[2]])) <= heads.longest]
        left_out += len(item.comparisons) - len(kept)
        used = sorted({i for _, *pair in kept for i in pair})
        trees = plant([texts[i] for i in used])
        for tree in trees:
            tree.ends = {numbers + used[n]: place for n, place in tree.ends.items()}
        if kept:
            examples.append(Example(tuple(trees), torch.tensor(kept) + torch.tensor([0, numbers, numbers])))
        numbers += len(texts)
    if not examples:
        raise InvalidData(f"Every comparison has a text of more than {heads.longest} tokens, the most the model reads.")
    return examples, left_out


class Reader:
    """Rewards of examples, the frozen layers' part kept where it fits into memory."""

    def __init__(self, heads: RewardHeads, examples: Sequence[Example]) -> None:
        self.heads = heads
        self.kept: dict[int, Tensor] = {}
        trees = [tree for example in examples for tree in example.trees]
        element = heads.decoder.dtype.itemsize * heads.decoder.config.hidden_size
        if heads.first and sum(len(tree.tokens) for tree in trees) * element <= KEPT_BYTES:
            for part in batches(trees, READ_TOKENS):
                lower = heads.trunk(TreeBatch.pack(part, heads.pad, heads.device))
                assert lower is not None
                for tree, row in zip(part, lower.cpu(), strict=True):
                    self.kept[id(tree)] = row[: len(tree.tokens)].clone()

    def __call__(self, examples: Sequence[Example]) -> tuple[Tensor, dict[int, int]]:
        """Rewards (K, M), differentiable, and each text's column among them."""
        trees = [tree for example in examples for tree in example.trees]
        batch = TreeBatch.pack(trees, self.heads.pad, self.heads.device)
        rows = [self.kept[id(tree)] for tree in trees] if self.kept else []
        trunk = pad_sequence(rows, batch_first=True).to(self.heads.device) if rows else None
        return self.heads.read(batch, trunk), {number: m for m, number in enumerate(batch.numbers)}


def train_heads(heads: RewardHeads, judged: Sequence[Judged], config: RewardTrainConfig, run: Run, seed: int) -> int:
    """Train all heads, from the run's last checkpoint on (one after each epoch); metrics go to ``metrics.jsonl``.

    Returns:
        How many comparisons were left out, being too long for the model.

    Raises:
        TrainingError: a gradient is not finite.
    """
    examples, left_out = prepare(heads, judged)
    parameters = [p.requires_grad_() for p in heads.parameters().values()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    steps = -(-len(examples) // config.batch_size)
    total = steps * config.epochs
    start = restore(run.path, heads, optimizer)
    run.rewind(start)
    read = Reader(heads, examples) if start < total else None
    bar = tqdm(range(start, total), initial=start, total=total, desc="reward heads", unit="step")
    for step in bar:
        epoch, place = divmod(step, steps)
        order = np.random.default_rng(derive_seed(seed, "reward epoch", epoch)).permutation(len(examples))
        batch = [examples[i] for i in order[place * config.batch_size : (place + 1) * config.batch_size]]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / total)
        assert read is not None
        optimizer.zero_grad()
        row = backward(read, batch, config)
        row |= clip_each(heads, config.max_grad_norm, step)
        optimizer.step()
        run.log({"step": step, "epoch": epoch, **row})
        bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.3f}")
        if place + 1 == steps:
            save_checkpoint(run.path, heads, optimizer, step + 1)
    for p in parameters:
        p.requires_grad_(False)
    return left_out


def backward(read: Reader, batch: Sequence[Example], config: RewardTrainConfig) -> dict[str, float]:
    """Add the gradient of the sum over attributes of the mean loss over the batch's comparisons of that attribute.

    loss = -log sigma(r_c - r_r) + centring (r_c + r_r)^2.

    Returns:
        The loss summed over attributes, and the share of comparisons that the heads got right before the step, of all
        and of each attribute that the batch has.
    """
    names = read.heads.attributes
    counts = torch.bincount(torch.cat([e.comparisons[:, 0] for e in batch]), minlength=len(names))
    loss, right = 0.0, torch.zeros(len(names), dtype=torch.float64)
    for part in micro_batches(batch, config.tokens_per_micro_batch):
        rewards, columns = read(part)
        k, *pair = torch.cat([e.comparisons for e in part]).unbind(1)
        chosen, rejected = (rewards[k, [columns[i] for i in texts.tolist()]] for texts in pair)
        each = softplus(rejected - chosen) + config.centring * (chosen + rejected) ** 2
        part_loss = (each / counts[k].to(each.device)).sum()
        part_loss.backward()
        loss += float(part_loss.detach())
        won = ((torch.sign(chosen - rejected) + 1) / 2).detach().double().cpu()
        right.index_add_(0, k, won)
    shares = {f"accuracy_{name}": float(right[i] / counts[i]) for i, name in enumerate(names) if counts[i]}
    return {"loss": loss, "accuracy": float(right.sum() / counts.sum()), **shares}


def micro_batches(batch: Sequence[Example], budget: int) -> list[list[Example]]:
    """Examples of similar size together, at most ``budget`` tokens with padding, or a single example."""

    def longest(example: Example) -> int:
        return max(len(tree.tokens) for tree in example.trees)

    parts: list[list[Example]] = []
    for example in sorted(batch, key=longest, reverse=True):
        rows = sum(len(other.trees) for other in parts[-1]) + len(example.trees) if parts else 0
        if not parts or longest(parts[-1][0]) * rows > budget:
            parts.append([])
        parts[-1].append(example)
    return parts


@torch.no_grad()
def clip_each(heads: RewardHeads, limit: float, step: int) -> dict[str, float]:
    """Scale each head's gradient down to ``limit``; the greatest norm before that.

    Raises:
        TrainingError: a norm is not finite.
    """
    gradients = [p.grad for p in heads.parameters().values() if p.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    if not torch.isfinite(norms).all():
        raise TrainingError(f"Step {step}: the gradient's norm is {norms.tolist()}. Lower the learning rate.")
    scale = (limit / norms.clamp(min=1e-12)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
    return {"grad_norm": float(norms.max())}


def save_checkpoint(directory: Path, heads: RewardHeads, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write where training stands after ``step`` steps; older checkpoints go."""
    state = {name: p.detach() for name, p in heads.parameters().items()}
    for name, p in heads.parameters().items():
        state |= {f"{name}/{key}": value for key, value in optimizer.state[p].items()}
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    target = directory / f"{checkpoint.PREFIX}{step:06d}"
    write_directory(target, lambda path: save_file(state, path / "state.safetensors"))
    checkpoint.prune(directory, newest=1, every=None)


@torch.no_grad()
def restore(directory: Path, heads: RewardHeads, optimizer: torch.optim.Optimizer) -> int:
    """Put heads and optimiser where the last checkpoint says; the number of steps behind it, 0 without one."""
    latest = checkpoint.latest(directory)
    if latest is None:
        return 0
    state = load_file(latest / "state.safetensors")
    for name, p in heads.parameters().items():
        p.copy_(state.pop(name))
        optimizer.state[p] = {
            key: state[f"{name}/{key}"].to("cpu" if key == "step" else p.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return checkpoint.steps_behind(latest)


@dataclass(frozen=True)
class HeldOut:
    """How one head does on comparisons it was not trained on.

    Attributes:
        attribute: whose head.
        comparisons, conversations: how many.
        accuracy, low, high: the share it orders rightly (ties one half), with a bootstrap interval over
            conversations (comparisons of the same one are not independent); None where they are too few.
        by_length: accuracy of preferring always the longer, or always the shorter answer, whichever is right more
            often on these very comparisons: what length alone explains, and a little more.
        log_loss: mean of -log p(chosen > rejected), in nats; ln 2 for a coin.
        calibration_error: expected calibration error: mean over comparisons of |observed - predicted| of their bin.
        bins: of the reliability diagram, see :func:`reliability_bins`.
    """

    attribute: str
    comparisons: int
    conversations: int
    accuracy: float
    low: float | None
    high: float | None
    by_length: float
    log_loss: float
    calibration_error: float
    bins: list[dict[str, float]]


def hold_out(heads: RewardHeads, judged: Sequence[Judged], resamples: int, seed: int) -> tuple[list[HeldOut], int]:
    """One entry per attribute, and how many comparisons were left out, being too long for the model."""
    examples, left_out = prepare(heads, judged)
    triples = torch.cat([e.comparisons for e in examples]).numpy()
    owner = np.repeat(np.arange(len(examples)), [len(e.comparisons) for e in examples])
    texts = [(item.conversation, answer) for item in judged for answer in item.answers]
    used = sorted(set(chain.from_iterable(triples[:, 1:].tolist())))
    rewards = np.full((len(heads.attributes), len(texts)), np.nan)
    read = heads.rewards([heads.encode(*texts[i]) for i in used], READ_TOKENS, progress="held out")
    rewards[:, used] = read.double().numpy()
    words = np.array([len(answer.split()) for _, answer in texts])
    found = []
    for k, attribute in enumerate(heads.attributes):
        of_k = triples[:, 0] == k
        chosen, rejected = triples[of_k, 1], triples[of_k, 2]
        if not len(chosen):
            raise InvalidData(f"No held-out comparison by {attribute!r} is short enough for the model.")
        margin = rewards[k, chosen] - rewards[k, rejected]
        right = (np.sign(margin) + 1) / 2
        low, high = cluster_bootstrap(right, owner[of_k], resamples, seed)
        longer = float((np.sign(words[chosen] - words[rejected]) + 1).mean() / 2)
        bins = reliability_bins(expit(np.abs(margin)), right)
        found.append(
            HeldOut(
                attribute=attribute,
                comparisons=len(chosen),
                conversations=len(np.unique(owner[of_k])),
                accuracy=float(right.mean()),
                low=low,
                high=high,
                by_length=max(longer, 1 - longer),
                log_loss=float(np.logaddexp(0, -margin).mean()),
                calibration_error=sum(b["n"] * abs(b["observed"] - b["predicted"]) for b in bins) / len(chosen),
                bins=bins,
            )
        )
    return found, left_out


def cluster_bootstrap(values: np.ndarray, owner: np.ndarray, resamples: int, seed: int) -> Bounds:
    """Percentile interval of the mean of ``values`` (n,), whole clusters, ``owner`` (n,), resampled; of few none."""
    _, cluster = np.unique(owner, return_inverse=True)
    sums, counts = np.bincount(cluster, values), np.bincount(cluster)
    if len(counts) < LEAST:
        return None, None
    rng = np.random.default_rng(derive_seed(seed, "reward bootstrap"))
    group = max(1, NUMBERS_AT_A_TIME // len(counts))
    means = []
    for start in range(0, resamples, group):
        drawn = rng.integers(len(counts), size=(min(group, resamples - start), len(counts)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return percentile(np.concatenate(means))


def reliability_bins(confidence: np.ndarray, right: np.ndarray, count: int = 10) -> list[dict[str, float]]:
    """The non-empty of ``count`` equal bins of [1/2, 1]: predicted and observed frequency of being right.

    Args:
        confidence: (n,), p(answer the head prefers > the other), in [1/2, 1].
        right: (n,), whether it was preferred: 0, 1, or 1/2 for a tie.
        count: of the bins.

    Returns:
        By bin ``predicted`` and ``observed`` (means), ``low`` and ``high`` (Wilson's interval of the observed at
        ``LEVEL``, as if comparisons were independent) and ``n``.
    """
    z = float(ndtri((1 + LEVEL) / 2))
    place = np.minimum(((confidence - 0.5) * 2 * count).astype(int), count - 1)
    rows = []
    for b in np.unique(place):
        inside = place == b
        n, observed = int(inside.sum()), float(right[inside].mean())
        centre = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
        spread = z * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        row = {"predicted": float(confidence[inside].mean()), "observed": observed}
        rows.append({**row, "low": float(centre - spread), "high": float(centre + spread), "n": n})
    return rows


def describe(config: RewardTrainConfig) -> dict[str, Any]:
    """As JSON, for manifests."""
    return {**vars(config), "lora": {**vars(config.lora), "modules": list(config.lora.modules)}}
