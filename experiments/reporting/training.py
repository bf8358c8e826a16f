"""What the run directories say: what was run, whether it finished, and what training did to the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.reporting.record import RunRecord, SweepRecord
from experiments.reporting.render import Picture, Section, Table, Text
from experiments.reporting.results import FOLLOWER, LEADER, against_base
from slhf import figures
from slhf.intervals import with_interval

ROLES = ("leader", "follower")
ALONE = "the policy"
"""How curves of a run without a Follower are called."""
SERIES = ("Leader", "Follower", ALONE)
HEALTH = {
    "base_loglik": "base log-likelihood (nats per token)",
    "token_entropy": "entropy (nats per token)",
    "tokens": "length (tokens)",
    "ended": "share of answers that ended by themselves",
}
"""Metric of a role -> what it is."""


def started(sweep: SweepRecord) -> list[RunRecord]:
    """The runs with at least one step."""
    return [run for run in sweep.runs if run.steps]


def speaker(run: RunRecord, role: str) -> str:
    """What a role is called: "Leader" or "Follower" where the run has both, "" for the only one."""
    return role.capitalize() if any(str(name).startswith("follower_") for name in run.metrics) else ""


def what_was_run(sweep: SweepRecord) -> Section:
    """Settings, versions and machine; in one table what all runs share, in another what differs."""
    facts = {run.title: {**run.config, **run.environment} for run in sweep.runs if run.manifest}
    keys = list(dict.fromkeys(key for own in facts.values() for key in own))
    values = {key: [text_of(own.get(key, "–")) for own in facts.values()] for key in keys}
    shared = [[key, texts[0]] for key, texts in values.items() if len(set(texts)) == 1]
    differing = [[key, *texts] for key, texts in values.items() if len(set(texts)) > 1]
    blocks: list[Text | Table] = [
        Text(
            "From the runs' manifests. Names are those of the sweep file (algorithm fields by their own name), then "
            "versions, machine and commit."
        )
    ]
    if differing:
        blocks.append(Table(["setting", *facts], differing, "Where the runs differ."))
    blocks.append(Table(["setting", "value"], shared, "The same in all runs."))
    return Section("What was run", blocks)


def text_of(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def progress(sweep: SweepRecord) -> Section:
    """Which runs finished; of the others, what stopped them."""
    rows = []
    for run in sweep.runs:
        steps = f"{run.steps} of {run.config['train.steps']}" if run.manifest else "0"
        began = run.manifest["started"] if run.manifest else ""
        rows.append(
            [run.title, run.status, steps, f"{minutes(run):.1f}", str(run.config.get("seed", "")), began, run.directory]
        )
    blocks: list[Text | Table] = [Text(completeness(sweep))]
    blocks.append(Table(["run", "state", "steps", "minutes", "seed", "started", "directory"], rows))
    errors = [
        [run.title, "finished since" if run.result is not None else "at step " + str(run.steps), run.error]
        for run in sweep.runs
        if run.error
    ]
    if errors:
        blocks.append(Table(["run", "", "error"], errors, "What stopped a run, the last time that an error did."))
    if sweep.others:
        blocks.append(Text(f"Also in this directory, of other sweeps: {', '.join(sweep.others)}."))
    return Section("What finished and what failed", blocks)


def completeness(sweep: SweepRecord) -> str:
    """In one sentence or two."""
    undone = [f"{run.title} ({run.status})" for run in sweep.runs if run.result is None]
    parts = [f"Missing: {', '.join(undone)}." if undone else f"All {len(sweep.runs)} runs finished."]
    if sweep.evaluation is None:
        parts.append("There is no evaluation yet, so this report says nothing about win rates.")
    if not sweep.planned:
        parts.append("Only runs that were started are known.")
    if not sweep.finished:
        parts.append("The command that started the sweep goes on where it stopped.")
    return " ".join(parts)


def minutes(run: RunRecord) -> float:
    """Of training, all sessions."""
    return float(run.metrics.filter(regex="^seconds_").to_numpy().sum()) / 60


def learning(sweep: SweepRecord) -> Section | None:
    """What each algorithm raises, and the KL it pays."""
    runs = started(sweep)
    if not runs:
        return None
    signal_name, kl_name = "judge's signal on the batch", "KL to the reference (nats per answer)"
    panels = {run.title: {signal_name: signal(run), kl_name: by_role(run, "kl")} for run in runs}
    return Section(
        "Learning",
        [
            Text(
                "The judge's signal is, for SLHF, how often the Follower's reply is preferred to the Leader's answer "
                "(the Leader lowers what the Follower raises); for RLOO the reward; for the others how often the "
                "policy is preferred to its opponent. KL is the sum of log pi / pi_ref over an answer: how far "
                "training has moved the policy. Both are means over the training batch before each update."
            ),
            Picture(
                "learning",
                figures.small_multiples(panels, "step", SERIES, free=[signal_name]),
                "What is learned and the KL that is paid for it, over training.",
            ),
        ],
    )


def signal(run: RunRecord) -> dict[str, tuple[Any, Any]]:
    """What an algorithm is trained to raise, by name."""
    names = {"follower_preferred": "Follower over Leader", "reward": "reward", "leader_preferred": "over the opponent"}
    for key, name in names.items():
        if key in run.metrics:
            return {name: (run.metrics["step"], run.metrics[key])}
    return {}


def by_role(run: RunRecord, metric: str) -> dict[str, tuple[Any, Any]]:
    """The curves of ``leader_METRIC`` and ``follower_METRIC``; of a run without a Follower, the policy's."""
    return {
        speaker(run, role) or ALONE: (run.metrics["step"], run.metrics[f"{role}_{metric}"])
        for role in ROLES
        if f"{role}_{metric}" in run.metrics
    }


def health(sweep: SweepRecord) -> Section | None:
    """Whether the answers are still those of a language model."""
    runs = started(sweep)
    if not runs:
        return None
    panels = {run.title: {name: by_role(run, metric) for metric, name in HEALTH.items()} for run in runs}
    rows = [
        [title, speaker(run, role) or "–", *(change_text(first, last) for first, last in changes)]
        for run in runs
        for title, role, changes in health_changes([run])
    ]
    return Section(
        "Are the answers still good English?",
        [
            Text(
                "Base log-likelihood is the mean log-probability per token that the untrained model, at the sampling "
                "temperature, gives to the sampled answers. A collapse of it, of entropy or of length, or answers "
                "that no longer end, would show answers that only please the judge."
            ),
            Picture(
                "health",
                figures.small_multiples(panels, "step", SERIES),
                "Health of the sampled answers over training; panels of a column share their axis.",
            ),
            Table(["run", "role", *HEALTH.values()], rows, "From the first tenth of the steps to the last, means."),
        ],
    )


def health_changes(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Title, role, and for each metric of ``HEALTH`` its mean over the first and the last tenth of the steps."""
    for run in runs:
        tenth = max(1, run.steps // 10)
        for role in ROLES:
            columns = [run.metrics.get(f"{role}_{metric}") for metric in HEALTH]
            known = [column for column in columns if column is not None]
            if len(known) == len(HEALTH):
                yield run.title, role, [(float(c.head(tenth).mean()), float(c.tail(tenth).mean())) for c in known]


def change_text(first: float, last: float) -> str:
    """From, to."""
    return f"{first:.2f} → {last:.2f}"


def rewards(sweep: SweepRecord) -> Section | None:
    """The scalar that RLHF makes of the judge, for the runs that fitted one."""
    fitted = {run.title: run.reward for run in sweep.runs if run.reward}
    if not fitted:
        return None
    names = dict.fromkeys(name for weights in fitted.values() for name in weights)
    rows = [[name, *(f"{weights.get(name, 0):.2f}" for weights in fitted.values())] for name in names]
    text = (
        "RLHF compresses the judge into one number, here a Bradley–Terry reward linear in the judge's attributes, "
        "fitted to judged pairs of base-model answers. Its weights:"
    )
    return Section("The reward of " + ", ".join(fitted), [Text(text), Table(["attribute", *fitted], rows)])


def judge_in_training(sweep: SweepRecord) -> Section | None:
    """What the judge reported of itself, where it did."""
    means = {run.title: run.metrics.filter(regex="^judge_").mean() for run in started(sweep)}
    frame = pd.DataFrame({title: row for title, row in means.items() if len(row)})
    if frame.empty:
        return None
    rows = [[str(name).removeprefix("judge_"), *(f"{v:.4g}" for v in row)] for name, row in frame.iterrows()]
    return Section(
        "The judge in training",
        [Table(["per step, mean", *map(str, frame)], rows, "What the judge reported of itself.")],
    )


def ablations(sweep: SweepRecord) -> Section | None:
    """Runs of one algorithm that differ in one setting (and perhaps the seed), the setting as rows."""
    tables = []
    for key, runs in ablated(started(sweep)):
        rates = against_base(sweep.evaluation["win_rates"]) if sweep.evaluation else {}
        rows = [[text_of(run.config.get(key)), str(run.config["seed"]), *outcome(run, sweep, rates)] for run in runs]
        both = ["Leader over Base", "Follower over Base", "Follower over its Leader"]
        wins = both if speaker(runs[0], "leader") else ["over Base"]
        header = [key, "seed", *wins, "last KL (nats)"]
        name = runs[0].config["name"]
        tables.append(Table(header, rows, f"{name}: {', '.join(run.title for run in runs)}; all other settings equal."))
    return Section("Ablations", tables) if tables else None


def ablated(runs: Sequence[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    """(setting, runs that differ in it but in nothing else besides the seed, in order of its values).

    Seeds are a setting of their own only for runs that differ in nothing else.
    """
    found: list[tuple[str, list[RunRecord]]] = []
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in ("name", "seed"))
    for key in [*keys, "seed"]:
        groups: dict[Any, list[RunRecord]] = {}
        for run in runs:
            rest = {k: text_of(v) for k, v in run.config.items() if k not in (key, "seed")}
            groups.setdefault(tuple(sorted(rest.items())), []).append(run)
        for group in groups.values():
            differs = len({text_of(run.config.get(key)) for run in group}) > 1
            covered = key == "seed" and group[0].title in {run.title for _, other in found for run in other}
            if differs and not covered:
                found.append(
                    (key, sorted(group, key=lambda run: [order(run.config.get(name)) for name in (key, "seed")]))
                )
    return found


def order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, before texts."""
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, text_of(value))


def outcome(run: RunRecord, sweep: SweepRecord, rates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Of one run of an ablation: the evaluation's numbers, and the KL of its last step by role."""
    leader, follower = run.title + LEADER, run.title + FOLLOWER
    improved = [
        rate
        for rate in (sweep.evaluation or {"win_rates": []})["win_rates"]
        if (rate["row"], rate["column"]) == (follower, leader)
    ]
    found = [rates.get(leader, rates.get(run.title)), rates.get(follower), improved[0] if improved else None]
    found = found if speaker(run, "leader") else found[:1]
    kl = [f"{run.metrics[f'{role}_kl'].iloc[-1]:.2f}" for role in ROLES if f"{role}_kl" in run.metrics]
    return [*("–" if rate is None else with_interval(rate) for rate in found), " / ".join(kl)]


def training_samples(sweep: SweepRecord) -> Section | None:
    """The last conversations of each run, for a sweep without an evaluation."""
    rows = []
    for run in started(sweep):
        last = [row for row in run.samples if row["step"] == run.samples[-1]["step"]]
        for row in last[:2]:
            rows.append(
                [
                    run.title,
                    str(row["step"]),
                    row["prompt"],
                    row.get("leader", ""),
                    row.get("follower", ""),
                    f"{row['signal']:.2f}",
                ]
            )
    if not rows:
        return None
    header = ["run", "step", "prompt", "answer", "reply of the Follower", "judge"]
    text = (
        "The last ones that were kept. The judge's signal is, with a Follower, p(Leader's answer ≻ reply); else the "
        "reward of the answer, or how often it is preferred to its opponent."
    )
    return Section("Answers in training", [Text(text), Table(header, rows)])


def cost(sweep: SweepRecord) -> Section | None:
    """Seconds per phase of a step."""
    rows = {}
    for run in started(sweep):
        seconds = run.metrics.filter(regex="^seconds_").mean()
        facts = {str(name).removeprefix("seconds_"): value for name, value in seconds.items()}
        facts |= {"step": seconds.sum()}
        for name in ("peak_memory_gib", "peak_device_memory_gib"):
            if name in run.metrics:
                facts[name.replace("_", " ").replace("gib", "(GiB)")] = run.metrics[name].max()
        rows[run.title] = facts
    if not rows:
        return None
    frame = pd.DataFrame(rows).T
    cells = [[str(title), *("–" if pd.isna(v) else f"{v:.2f}" for v in row)] for title, row in frame.iterrows()]
    text = "Mean seconds per step and phase, and the process's peak memory."
    return Section("Cost", [Text(text), Table(["", *map(str, frame)], cells)])
