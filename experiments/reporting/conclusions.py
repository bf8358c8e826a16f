"""What a sweep shows, in plain words: sentences made from its numbers, none of which claims more than they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.record import SweepRecord
from experiments.reporting.render import Block, Bullets, Section, Text
from experiments.reporting.results import BASE, against_base, pairs_of, side, with_interval
from experiments.reporting.training import HEALTH, change_text, completeness, health_changes, started, text_of

MOST_PAIRS = 6
"""More are counted, not named; the table of win rates names them."""
WORDS = {
    "above": "Preferred to the base model, the whole interval above .5",
    "around": "Not told apart from the base model, the interval holds .5",
    "below": "The base model is preferred, the whole interval below .5",
}


def conclusions(sweep: SweepRecord) -> Section:
    """The section that opens a report."""
    items = list(of_evaluation(sweep.evaluation)) if sweep.evaluation else []
    items += of_health(sweep)
    seeds = sorted({str(run.config["seed"]) for run in sweep.runs if run.manifest})
    caveat = (
        f"Intervals are over prompts, not over training: {'one seed' if len(seeds) == 1 else 'seeds'} "
        f"({', '.join(seeds)}). The judge of these numbers is the judge of training."
    )
    blocks: list[Block] = [Text(in_short(sweep))]
    if not sweep.finished:
        blocks.append(Text("Unfinished. " + completeness(sweep)))
    if items:
        blocks.append(Bullets(items))
    if sweep.evaluation:
        blocks.append(Text(caveat))
    return Section("What this shows", blocks)


def in_short(sweep: SweepRecord) -> str:
    """Model, judge and algorithms in a sentence."""
    configs = [run.config for run in sweep.runs if run.manifest]
    parts = [
        f"{what} {', '.join(sorted({text_of(config.get(key)) for config in configs}))}"
        for what, key in (("model", "model.name"), ("judge", "judge.kind"), ("algorithms", "name"))
    ]
    held_out = f"; {len(sweep.evaluation['prompts'])} held-out prompts" if sweep.evaluation else ""
    return f"{len(sweep.runs)} runs: {'; '.join(parts)}{held_out}."


def of_evaluation(evaluation: Mapping[str, Any]) -> list[str]:
    """The sentences about win rates, Followers, length, refinement and cycles."""
    raw = against_base(evaluation["win_rates"])
    return [
        *standing(raw),
        *followers(evaluation),
        *among_trained(evaluation),
        *length(raw, against_base(evaluation.get("length_control", ()))),
        *parity(evaluation.get("parity", ())),
        *cycles(evaluation.get("cycles")),
    ]


def standing(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Who is better than the base model."""
    return [
        f"{words}: "
        + "; ".join(f"{name} {with_interval(row)}" for name, row in rows.items() if side(row) == place)
        + "."
        for place, words in WORDS.items()
        if any(side(row) == place for row in rows.values())
    ]


def followers(evaluation: Mapping[str, Any]) -> list[str]:
    """Every trained Follower against its own Leader and against the base model's second try."""
    rates = {(row["row"], row["column"]): row for row in evaluation["win_rates"]}
    second = pairs_of(evaluation["answers"]).get(BASE, (BASE, None))[1]
    sentences = []
    for policy, (leader, follower) in pairs_of(evaluation["answers"]).items():
        if policy == BASE or follower is None:
            continue
        rivals = [rival for rival in (leader, second) if rival is not None]
        parts = [
            f"over {rival} {with_interval(rates[follower, rival])}{held(rates[follower, rival])}" for rival in rivals
        ]
        sentences.append(f"{follower}: " + ", ".join(parts) + ".")
    return sentences


def held(row: Mapping[str, Any]) -> str:
    """A reminder where nothing is resolved."""
    return " (holds .5)" if side(row) == "around" else ""


def among_trained(evaluation: Mapping[str, Any]) -> list[str]:
    """How much of the ranking of the trained policies is resolved: the last answer of each against the others'."""
    last = [second or first for policy, (first, second) in pairs_of(evaluation["answers"]).items() if policy != BASE]
    better = [r for r in evaluation["win_rates"] if r["row"] in last and r["column"] in last and side(r) == "above"]
    pairs = len(last) * (len(last) - 1) // 2
    if pairs == 0:
        return []
    few = 0 < len(better) <= MOST_PAIRS
    found = ": " + "; ".join(f"{r['row']} over {r['column']} {with_interval(r)}" for r in better) if few else ""
    return [
        f"Among the {len(last)} trained policies (the Follower's answer where there is one), {len(better)} of "
        f"{pairs} pairs have an interval that leaves out .5{found}. With equal policies about "
        f"one in twenty would by chance."
    ]


def length(raw: Mapping[str, Mapping[str, Any]], equal: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose gain over the base is not there at equal length, and whose is."""
    gained = [name for name in equal if side(raw[name]) == "above"]
    lost = [f"{name} {with_interval(equal[name])}" for name in gained if side(equal[name]) != "above"]
    if not gained:
        return []
    kept = len(gained) - len(lost)
    text = f"Of {len(gained)} players above .5 against the base, {kept} still are at equal length"
    return [text + (f"; not {'; '.join(lost)}." if lost else ".")]


def parity(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each policy's refinement beside what the largest number of generations buys otherwise."""
    sentences = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        most = max(row["generations"] for row in rows if row["policy"] == policy)
        own = {r["method"]: r for r in rows if r["policy"] == policy and r["generations"] == most}
        parts = [f"{method} {with_interval(row)}" for method, row in own.items()]
        sentences.append(f"{policy} with {most} generations, against the base: " + ", ".join(parts) + ".")
    return sentences


def cycles(found: Mapping[str, Any] | None) -> list[str]:
    """How intransitive the judge is on these answers."""
    if found is None:
        return []
    return [
        f"The judge's preferences among {found['answers']} answers cycle on {100 * found['share']:.0f} % of prompts; "
        f"one answer beats every other on {100 * found['condorcet_winner']:.0f} %."
    ]


def of_health(sweep: SweepRecord) -> list[str]:
    """What moved most over training, of what says whether answers are still those of a language model."""
    changes = {f"{title} {role.capitalize()}": values for title, role, values in health_changes(started(sweep))}
    if not changes:
        return []
    sentences = []
    for i, name in enumerate(HEALTH.values()):
        most = max(changes, key=lambda who: abs(changes[who][i][1] - changes[who][i][0]))
        sentences.append(f"{name} {change_text(*changes[most][i])} ({most})")
    return ["The largest changes from the first tenth of the steps to the last: " + "; ".join(sentences) + "."]
