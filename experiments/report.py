"""``report.md``, ``summary.json`` and figures from finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llm.config import ModelConfig
from slhf import figures
from slhf.algorithms import StackelbergGDA
from slhf.runs import write_atomically, write_json

if TYPE_CHECKING:
    from experiments.language_models import TrainedRun

SAMPLES = 8
"""Prompts whose answers are shown side by side."""


def write(root: Path, runs: list[TrainedRun], evaluation: dict[str, Any]) -> Path:
    """Write the report of a language-model sweep into ``root``; returns the path of ``report.md``."""
    summary = {
        "win_rates": evaluation["win_rates"],
        "refinement": evaluation["refinement"],
        "attributes": evaluation["attributes"],
        "runs": {trained.title: describe_run(trained) for trained in runs},
    }
    write_json(root / "summary.json", summary)
    draw(root / "figures", runs, evaluation)
    sections = [
        "# " + root.name,
        what_was_run(runs, len(evaluation["prompts"])),
        "## Win rates\n\nHow often the row is preferred to the column on held-out prompts, with 95 % bootstrap "
        "intervals over prompts. *Base as Follower* is the untrained model asked to improve its own answer: what a "
        "second try is worth without training.",
        win_rate_table(evaluation["win_rates"]),
        "![Win rates](figures/win_rates.png)",
        "## Refinement\n\nEach round's answers against the base model's first answers. Round 1 is the Leader's; the "
        "Follower then improves on the previous round.",
        "![Refinement](figures/refinement.png)",
        "## Learning\n\n![Learning curves](figures/learning.png)\n\n"
        "Base log-likelihood is the mean log-probability per token that the untrained model, at the sampling "
        "temperature, gives to the sampled answers: a collapse of it, or of length, would show answers that only "
        "please the judge.",
        "![Likelihood and length](figures/health.png)",
        "## What the judge sees\n\nMean attributes of the held-out answers.",
        pd.DataFrame(evaluation["attributes"]).T.to_markdown(floatfmt=".3f"),
        *reward_sections(runs),
        "## Sample answers\n\np is the judge's preference for the answer over the base model's.",
        sample_answers(evaluation),
        "## Cost\n\nMean seconds per step and phase, and the process's peak memory so far (GiB).",
        cost_table(runs),
    ]
    path = root / "report.md"
    write_atomically(path, "\n\n".join(sections) + "\n")
    return path


def headline(path: Path) -> str:
    """What the command prints at the end: the table and where everything is."""
    summary = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))
    return f"\nWin rate of row over column\n\n{win_rate_table(summary['win_rates'])}\n\nReport: {path}"


def describe_run(trained: TrainedRun) -> dict[str, Any]:
    """Where a run is, what it was, and its cost per step."""
    metrics = pd.DataFrame(trained.run.metrics())
    phases = [name for name in map(str, metrics) if name.startswith("seconds_")]
    return {
        "directory": trained.run.path.name,
        "steps": len(metrics),
        "seconds_per_step": {name.removeprefix("seconds_"): float(metrics[name].mean()) for name in phases},
        "training_seconds": float(metrics[phases].to_numpy().sum()),
        "peak_memory_gib": float(metrics["peak_memory_gib"].max()),
    }


def what_was_run(runs: list[TrainedRun], prompts: int) -> str:
    """One paragraph and one line per run."""
    sweep = runs[0].sweep
    manifest = json.loads((runs[0].run.path / "manifest.json").read_text(encoding="utf-8"))
    env = manifest["environment"]
    lines = [
        f"Model `{sweep.model.name}`, {trained_part(sweep.model)}, temperature {sweep.model.temperature}, at most "
        f"{sweep.model.max_new_tokens} new tokens; judge `{sweep.judge.kind}`; {prompts} held-out prompts. "
        f"Python {env['python']}, torch {env['packages']['torch']}, transformers {env['packages']['transformers']}, "
        f"{env['cpus']} CPUs, commit {env['commit']} (of the first run; each has its own manifest).",
        "",
    ]
    for trained in runs:
        facts = describe_run(trained)
        lines.append(
            f"- **{trained.title}**: `{trained.spec}`, {facts['steps']} steps of {trained.sweep.train.batch_size} "
            f"prompts in {facts['training_seconds'] / 60:.1f} minutes, seed {trained.sweep.seed} "
            f"(`{facts['directory']}`)"
        )
    return "\n".join(lines)


def trained_part(model: ModelConfig) -> str:
    """What of the model is trained, in words."""
    if model.lora is None:
        return "all weights trained"
    layers = "all" if model.lora.layers is None else f"the last {model.lora.layers}"
    each = ", an adapter for each role" if model.sharing == "two" else ""
    return f"LoRA rank {model.lora.rank} on {layers} layers{each}"


def win_rate_table(rates: list[dict[str, Any]]) -> str:
    """Rows against columns as Markdown, each cell ``mean [low, high]``."""
    frame = pd.DataFrame(rates)
    players = list(dict.fromkeys(frame["row"]))
    frame["cell"] = [f"{r['mean']:.3f} [{r['low']:.2f}, {r['high']:.2f}]" for r in rates]
    table = frame.pivot(index="row", columns="column", values="cell").loc[players, players].fillna("–")
    return table.rename_axis(index=None, columns=None).to_markdown()


def reward_sections(runs: list[TrainedRun]) -> list[str]:
    """The scalar that RLHF makes of the judge, for the runs that fitted one."""
    sections = []
    for trained in runs:
        path = trained.run.path / "reward.json"
        if path.exists():
            weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
            formula = " + ".join(f"{weight:.2f} {name}" for name, weight in weights.items()).replace("+ -", "− ")
            sections.append(
                f"## The reward of {trained.title}\n\nRLHF compresses the judge into one number, here a Bradley–Terry "
                f"reward linear in the attributes, fitted to judged pairs of base-model answers: {formula}."
            )
    return sections


def sample_answers(evaluation: dict[str, Any]) -> str:
    """Answers of all players to the first held-out prompts, with the judge's verdict against the base."""
    verdicts = evaluation["verdicts"]
    blocks = []
    for i, prompt in enumerate(evaluation["prompts"][:SAMPLES]):
        rows = [
            {"": name, "answer": " ".join(texts[i].split()).replace("|", "\\|"), "p": verdict_text(verdicts, name, i)}
            for name, texts in evaluation["answers"].items()
        ]
        blocks.append(f"**{prompt}**\n\n{pd.DataFrame(rows).to_markdown(index=False)}")
    return "\n\n".join(blocks)


def verdict_text(verdicts: dict[str, list[float]], name: str, i: int) -> str:
    """p(answer > base) of one prompt; nothing for the base itself."""
    return f"{verdicts[name][i]:.1f}" if name in verdicts else "–"


def cost_table(runs: list[TrainedRun]) -> str:
    """Seconds per phase of a step."""
    rows = {}
    for trained in runs:
        facts = describe_run(trained)
        seconds = facts["seconds_per_step"]
        rows[trained.title] = {**seconds, "total": sum(seconds.values()), "peak memory": facts["peak_memory_gib"]}
    return pd.DataFrame(rows).T.to_markdown(floatfmt=".2f")


def draw(folder: Path, runs: list[TrainedRun], evaluation: dict[str, Any]) -> None:
    """All figures of a sweep."""
    frame = pd.DataFrame(evaluation["win_rates"])
    players = list(dict.fromkeys(frame["row"]))
    table = frame.pivot(index="row", columns="column", values="mean").loc[players, players]
    notes = [
        [interval_text(frame[(frame["row"] == row) & (frame["column"] == column)]) for column in players]
        for row in players
    ]
    figure, axes = figures.new_figure(width=1.6 + 0.75 * len(players), height=1.0 + 0.45 * len(players))
    figures.heat_map(axes[0, 0], table.to_numpy(), players, players, "p(row preferred to column)", notes)
    figures.save(figure, folder / "win_rates.png")

    curves = pd.DataFrame(evaluation["refinement"])
    series = {
        str(name): (g["round"], g["mean"], g["low"], g["high"]) for name, g in curves.groupby("policy", sort=False)
    }
    figure, axes = figures.new_figure()
    figures.intervals(axes[0, 0], series, "refinement round", "preferred to the base's first answer")
    axes[0, 0].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    figures.save(figure, folder / "refinement.png")

    metrics = {trained.title: pd.DataFrame(trained.run.metrics()) for trained in runs}
    figure, axes = figures.new_figure(columns=2)
    figures.curves(axes[0, 0], learning_series(runs, metrics), "step", "mean judge signal of the batch")
    figures.curves(axes[0, 1], by_role(metrics, "kl"), "step", "KL to the reference (nats per answer)")
    figures.save(figure, folder / "learning.png")

    figure, axes = figures.new_figure(columns=2)
    figures.curves(axes[0, 0], by_role(metrics, "base_loglik"), "step", "base log-likelihood per token (nats)")
    figures.curves(axes[0, 1], by_role(metrics, "tokens"), "step", "answer length (tokens)")
    figures.save(figure, folder / "health.png")


def by_role(metrics: dict[str, pd.DataFrame], name: str) -> dict[str, tuple[Any, Any]]:
    """The curves of ``leader_NAME`` and, where there is one, ``follower_NAME``."""
    series = {}
    for title, m in metrics.items():
        both = f"follower_{name}" in m
        series[f"{title} Leader" if both else title] = (m["step"], m[f"leader_{name}"])
        if both:
            series[f"{title} Follower"] = (m["step"], m[f"follower_{name}"])
    return series


def interval_text(row: pd.DataFrame) -> str:
    """ "[low, high]" of the one row, or nothing."""
    return "" if row.empty else f"[{row['low'].item():.2f}, {row['high'].item():.2f}]"


def learning_series(runs: list[TrainedRun], metrics: dict[str, pd.DataFrame]) -> dict[str, tuple[Any, Any]]:
    """What each algorithm is trained to raise, as the judge measures it on the training batch."""
    series = {}
    for trained in runs:
        m = metrics[trained.title]
        if isinstance(trained.spec, StackelbergGDA):
            series[f"{trained.title}: Follower over Leader"] = (m["step"], m["follower_preferred"])
        elif "reward" in m:
            series[f"{trained.title}: reward"] = (m["step"], m["reward"])
        else:
            series[f"{trained.title}: over the mixture"] = (m["step"], m["leader_preferred"])
    return series
