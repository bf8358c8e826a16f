"""What ``experiments/train_reward.py`` does once its arguments are understood: label, train, measure, report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm
from transformers import AutoConfig

from experiments import process
from llm import checkpoint, embedded
from llm.config import ModelConfig, load_policy
from llm.data import SPLITS, Comparison, PreferenceConfig, Split, load_preferences, load_prompts
from llm.generation import TransformersGenerator
from llm.judges.attributes import AttributeJudge
from llm.policy import default_device
from llm.precision import settled
from llm.reward_heads import RewardHeads
from llm.reward_training import (
    SMALL,
    HeldOut,
    Judged,
    RewardTrainConfig,
    describe,
    gather,
    hold_out,
    train_heads,
)
from slhf import figures
from slhf.errors import InvalidData
from slhf.intervals import too_few, with_interval
from slhf.runs import Run, content_hash, derive_seed, remove_directory, write_atomically, write_json

if TYPE_CHECKING:
    from experiments.train_reward import Command

ANSWERS = 4
"""Answers to each embedded prompt, unless the command says otherwise."""
BATCH = 32
"""Prompts whose answers are sampled together."""
RESAMPLES = 10_000
"""Bootstrap resamples of the held-out conversations."""


def run(command: Command) -> str:
    """Train and measure unless that is done; returns what to print."""
    process.prepare()
    config, device = settings(command), default_device()
    embedded.from_pretrained(
        AutoConfig, command.model
    )  # a model that is not there: now, not after the answers are sampled
    source: dict[str, Any]
    if command.data == "embedded":
        preferences, source = None, {"prompts": command.prompts, "answers": command.answers or ANSWERS}
    else:
        asked = PreferenceConfig(command.data, heldout_share=command.heldout_share or 0.1, limit=command.limit)
        preferences = [load_preferences(asked, split) for split in SPLITS]
        source = {
            **asdict(asked),
            "content": content_hash([[asdict(c) for cs in p.values() for c in cs] for p in preferences]),
        }
    name = Path(command.data).stem or "data"
    described = {
        "data": command.data,
        "source": source,
        "model": command.model,
        "dtype": command.dtype,
        "seed": command.seed,
        "training": describe(config),
    }
    this = Run.open(command.out, name, described)
    if not this.finished:
        with this.lock():
            if preferences is None:
                preferences = [embedded_preferences(this, split, command, device) for split in SPLITS]
            train, heldout = (gather(split) for split in preferences)
            if list(preferences[0]) != list(preferences[1]):
                raise InvalidData(
                    f"The splits have different attributes: {list(preferences[0])}, {list(preferences[1])}."
                )
            dtype = settled(command, "model", this.manifest, device).dtype
            heads = RewardHeads.create(command.model, list(preferences[0]), config.lora, dtype, device, command.seed)
            dropped = train_heads(heads, train, config, this, command.seed)
            heads.save(this.path / "ensemble")
            rows, also = hold_out(heads, heldout, RESAMPLES, command.seed)
            result = {
                "train": counts(train, list(heads.attributes)),
                "left_out": dropped + also,
                "heldout": [asdict(row) for row in rows],
            }
            draw(this.path / "calibration.png", rows)
            write_atomically(this.path / "report.md", report(command, config, dtype, result, this.path))
            this.finish(result)
            for leftover in checkpoint.find_all(this.path):
                remove_directory(leftover)
    return f"\n{table(this.result())}\n\nReport: {this.path / 'report.md'}"


def settings(command: Command) -> RewardTrainConfig:
    """The recipe that belongs to the model, with what the command changes.

    Raises:
        ConfigError: an option is out of range.
    """
    config = SMALL if command.model == "embedded" else RewardTrainConfig()
    own = {key: getattr(command, key) for key in ("epochs", "learning_rate", "batch_size", "centring")}
    lora = config.lora
    if command.rank is not None:
        lora = replace(lora, rank=command.rank, alpha=2.0 * command.rank)
    if command.layers is not None:
        lora = replace(lora, layers=command.layers or None)
    return replace(config, lora=lora, **{key: value for key, value in own.items() if value is not None})


def embedded_preferences(this: Run, split: Split, command: Command, device: str) -> dict[str, list[Comparison]]:
    """Base-model answers to the embedded prompts, each pair of them compared by each attribute of the embedded judge.

    Equal attributes are no comparison. Answers and attributes are kept in the run directory as they are made.
    """
    path = this.path / f"answers-{split}.json"
    if not path.exists():
        prompts, n = load_prompts("embedded", split)[: command.prompts], command.answers or ANSWERS
        texts = sample(prompts, n, derive_seed(command.seed, "reward answers", split), device)
        scores = AttributeJudge(device).features([x for x in prompts for _ in range(n)], texts)
        rows = [
            {"prompt": x, "answers": texts[i * n : (i + 1) * n], "attributes": scores[i * n : (i + 1) * n].tolist()}
            for i, x in enumerate(prompts)
        ]
        write_json(path, rows)
    found: dict[str, list[Comparison]] = {name: [] for name in AttributeJudge.feature_names}
    for row in json.loads(path.read_text(encoding="utf-8")):
        distinct = dict(zip(row["answers"], row["attributes"], strict=True))
        compare(row["prompt"], distinct, found)
    return found


def compare(prompt: str, answers: dict[str, list[float]], found: dict[str, list[Comparison]]) -> None:
    """Add the comparisons of all pairs of answers, given their attributes, in the order of ``found``."""
    texts = list(answers)
    for j, b in enumerate(texts):
        for a in texts[:j]:
            for name, ours, theirs in zip(found, answers[a], answers[b], strict=True):
                if ours != theirs:
                    chosen, rejected = (a, b) if ours > theirs else (b, a)
                    found[name].append(Comparison(({"role": "user", "content": prompt},), chosen, rejected))


def sample(prompts: Sequence[str], answers: int, seed: int, device: str) -> list[str]:
    """``answers`` answers of the embedded model to each prompt, one prompt after the other."""
    model = ModelConfig()
    policy = load_policy(model, None, 0, device)
    texts: list[str] = []
    for start in tqdm(range(0, len(prompts), BATCH), desc="sampling answers", unit="batch"):
        session = TransformersGenerator(policy).open([policy.chat.prompt(x) for x in prompts[start : start + BATCH]])
        session.repeat(answers)
        drawn = session.sample(model.max_new_tokens, seed, first_row=start * answers)
        texts += [policy.chat.text(y.ids) for y in drawn]
    return texts


def counts(judged: Sequence[Judged], attributes: Sequence[str]) -> dict[str, int]:
    """Comparisons by attribute."""
    ks = [k for item in judged for k, _, _ in item.comparisons]
    return {name: ks.count(k) for k, name in enumerate(attributes)}


def table(result: dict[str, Any]) -> str:
    """One row per attribute, as Markdown."""
    rows = [
        {
            "attribute": row["attribute"],
            "trained on": result["train"][row["attribute"]],
            "held out": f"{row['comparisons']} of {row['conversations']} conversations",
            "accuracy": with_interval({**row, "mean": row["accuracy"], "n": row["conversations"]}),
            "by length alone": f"{row['by_length']:.3f}",
            "log loss": f"{row['log_loss']:.3f}",
            "calibration error": f"{row['calibration_error']:.3f}",
        }
        for row in result["heldout"]
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def draw(path: Path, rows: Sequence[HeldOut]) -> None:
    """A reliability diagram for each attribute."""
    columns = min(3, len(rows))
    figure, axes = figures.new_figure(columns, math.ceil(len(rows) / columns), width=2.4, height=2.2)
    for panel in axes.flat[len(rows) :]:
        panel.axis("off")
    for panel, row in zip(axes.flat, rows, strict=False):
        title = f"{row.attribute} (error {row.calibration_error:.2f})"
        figures.reliability(panel, row.bins, "predicted p", "observed frequency", title)
    figures.save(figure, path)


def report(command: Command, config: RewardTrainConfig, dtype: str, result: dict[str, Any], path: Path) -> str:
    """The whole of ``report.md``."""
    heads = ", ".join(result["train"])
    remark = too_few(min(row["conversations"] for row in result["heldout"]), "held-out conversations")
    layers = "all layers" if config.lora.layers is None else f"the last {config.lora.layers} layers"
    left_out = f" {result['left_out']} comparisons were left out, being too long for the model." * bool(
        result["left_out"]
    )
    return f"""# Reward heads: {command.data}

One LoRA reward head for each of {heads} on `{command.model}` ({dtype}): rank {config.lora.rank}, alpha
{config.lora.alpha:g}, {layers}; {config.epochs} epochs of {config.batch_size} conversations a step, learning rate
{config.learning_rate:g} falling to zero, centring {config.centring:g}, seed {command.seed}.{left_out}

## On held-out conversations

{table(result)}

Accuracy is the share of comparisons that a head orders rightly (chance is .5), with a 95 % bootstrap interval over
conversations. {remark}

*By length alone* is what always preferring the longer, or always the shorter, answer would reach.
The log loss of a coin is {math.log(2):.3f}.

## Calibration

Each panel holds what a head predicts for the answer it prefers against how often that answer was preferred; bars are
95 % intervals, areas say how many comparisons there are, and on the dotted line the two agree. The calibration error is
the mean distance from it; with few comparisons it is not zero even for a perfect head.

![Calibration](calibration.png)

## Use it

As the judge of a sweep:

```yaml
judge:
  kind: reward_ensemble
  path: {path / "ensemble"}
  preference: share        # or mean_sigmoid
```

Each folder of it is an adapter for sequence classification that `peft` loads.
"""
