"""What a sweep shows, in plain words: sentences made from the numbers of its ``summary.json``.

A sentence about several variants counts all of them, those that it names and those that it does not, and none claims
more than its intervals do. The report, the README and notebook 5 print these sentences and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from experiments.reporting.record import SweepRecord
from experiments.reporting.render import Block, Bullets, Section, Text
from experiments.reporting.results import BASE, against_base, pairs_of
from experiments.reporting.training import HEALTH, change_text, completeness, health_changes, speaker, started, text_of
from slhf.intervals import by_chance, side, too_few, with_interval

MOST_PAIRS = 6
"""More are counted, not named; the table of win rates names them."""
DIFFERENCES = (
    "No interval of these differences was computed, and best of n is chosen by the judge that then scores it, so it is "
    "optimistic."
)


def conclusions(sweep: SweepRecord) -> Section:
    """The section that opens a report."""
    items = sentences(sweep.evaluation) if sweep.evaluation else []
    items += of_health(sweep)
    blocks: list[Block] = [Text(in_short(sweep))]
    if not sweep.finished:
        blocks.append(Text("Unfinished. " + completeness(sweep)))
    if items:
        blocks.append(Bullets(items))
    if sweep.evaluation:
        blocks.append(Text(caveat(sweep)))
    return Section("What this shows", blocks)


def in_short(sweep: SweepRecord) -> str:
    """Model, judge and algorithms in a sentence."""
    configs = [run.config for run in sweep.runs if run.manifest]
    parts = [
        f"{what} {', '.join(sorted({text_of(config.get(key)) for config in configs}))}"
        for what, key in (("model", "model.name"), ("judge", "judge.kind"), ("algorithms", "name"))
    ]
    held_out = f"; {prompts_of(sweep.evaluation)} held-out prompts" if sweep.evaluation else ""
    return f"{len(sweep.runs)} runs: {'; '.join(parts)}{held_out}."


def caveat(sweep: SweepRecord) -> str:
    """What the intervals leave out."""
    seeds = sorted({str(run.config["seed"]) for run in sweep.runs if run.manifest})
    return (
        f"Intervals are over prompts, not over training: {'one seed' if len(seeds) == 1 else 'seeds'} "
        f"({', '.join(seeds)}). The judge of these numbers is the judge of training."
    )


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The sentences on win rates, Followers, length, refinement and cycles.

    Args:
        summary: what ``summary.json`` holds, or the whole result of an evaluation.
    """
    raw = against_base(summary["win_rates"])
    few = too_few(prompts_of(summary))
    return [
        *([few] if few else []),
        tally("Preferred to the base model's answer", raw),
        *followers(summary["win_rates"]),
        *among_trained(summary["win_rates"]),
        *length(raw, against_base(summary.get("length_control", ()))),
        *parity(summary.get("parity", ())),
        *improvers(summary.get("leader_follower", ())),
        *choices(summary.get("selection", ())),
        *cycles(summary.get("cycles")),
    ]


def prompts_of(summary: Mapping[str, Any]) -> int:
    """How many prompts the win rates are over."""
    return summary["win_rates"][0]["n"]


def tally(what: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """All variants, name -> estimate, counted and named by where their intervals lie.

    Without intervals there is no verdict, only the means.
    """

    def those(place: str, of: str = "") -> str:
        found = [f"{name} {with_interval(row)}" for name, row in rows.items() if side(row) == place]
        return f"{len(found)}{of}" + (f" ({'; '.join(found)})" if found else "")

    if any(side(row) == "unknown" for row in rows.values()):
        return f"{what}: no verdict on {those('unknown')}."
    return (
        f"{what}: the whole interval lies above .5 in {those('above', f' of {len(rows)}')}. "
        f"It contains .5 in {those('around')} and lies below .5 in {those('below')}."
    )


def followers(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every trained Follower against its own Leader and against the base model's second try."""
    by_pair = {(row["row"], row["column"]): row for row in rates}
    pairs = pairs_of(players_of(rates))
    second = pairs.get(BASE, (BASE, None))[1]
    trained = {follower: leader for policy, (leader, follower) in pairs.items() if policy != BASE and follower}
    own = {follower: by_pair[follower, leader] for follower, leader in trained.items()}
    again = {follower: by_pair[follower, second] for follower in trained if second is not None}
    sentences = {"Followers preferred to their own Leader's answer": own}
    sentences |= {f"Followers preferred to the base model's second try ({second})": again}
    return [tally(what, rows) for what, rows in sentences.items() if rows]


def players_of(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who met, in order."""
    return list(dict.fromkeys(row["row"] for row in rates))


def among_trained(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much of the ranking of the trained policies is resolved: the last answer of each against the others'."""
    last = [second or first for policy, (first, second) in pairs_of(players_of(rates)).items() if policy != BASE]
    mutual = [r for r in rates if r["row"] in last and r["column"] in last]
    better = [r for r in mutual if side(r) == "above"]
    pairs = len(mutual) // 2
    if pairs == 0 or any(side(r) == "unknown" for r in mutual):
        return []
    few = 0 < len(better) <= MOST_PAIRS
    found = ": " + "; ".join(f"{r['row']} over {r['column']} {with_interval(r)}" for r in better) if few else ""
    return [
        f"Among the {len(last)} trained policies (the Follower's answer where there is one), the interval leaves out "
        f".5 in {len(better)} of {pairs} pairs{found}. {by_chance(pairs)}".strip()
    ]


def length(raw: Mapping[str, Mapping[str, Any]], equal: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose gain over the base is not there at equal length, and whose is."""
    gained = {name: row for name, row in equal.items() if side(raw[name]) == "above"}
    what = f"At equal length, of the {len(gained)} players above .5 against the base"
    return [tally(what, gained)] if gained else []


def parity(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each policy's refinement stands beside what as many generations buy otherwise, for each number above 1."""
    means = {(r["policy"], r["method"], r["generations"]): r["mean"] for r in rows}
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    sentences = []
    for n, method in product(sorted({row["generations"] for row in rows} - {1}), ("best of n", "resampling")):
        pairs = {name: (means[name, "refinement", n], means[name, method, n]) for name in policies}
        higher, lower = (sum(sign * (ours - theirs) > 0 for ours, theirs in pairs.values()) for sign in (1, -1))
        values = "; ".join(f"{name} {ours:.3f} against {theirs:.3f}" for name, (ours, theirs) in pairs.items())
        sentences.append(
            f"With {n} answers generated, the mean preference over the base of refinement is higher than that of "
            f"{method.replace(' n', f' {n}')} for {higher} of {len(pairs)} policies and lower for {lower} ({values})."
        )
    return [*sentences, DIFFERENCES] if sentences else []


def improvers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each Follower, how many policies' answers it improves."""
    if not rows or any(side(row) == "unknown" for row in rows):
        return []
    sides: dict[str, list[str]] = {}
    for row in rows:
        sides.setdefault(row["follower"], []).append(side(row))
    counts = [f"{who} {own.count('above')}, {own.count('around')}, {own.count('below')}" for who, own in sides.items()]
    what = "Of how many policies each improves the answers (whole interval above .5, containing .5, below .5)"
    return [f"{what}: {'; '.join(counts)}. {by_chance(len(rows))}".strip()]


def choices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each concept's choice among everyone's samples is worth."""
    chosen = [row for row in rows if row.get("candidates", "all") == "all"]
    named = "; ".join(f"{row['method']} {with_interval(row)}" for row in chosen)
    what = "Chosen among everyone's samples, preferred to the base model's answer (the judge chooses and scores)"
    return [f"{what}: {named}."] if chosen else []


def cycles(found: Mapping[str, Any] | None) -> list[str]:
    """How intransitive the judge is on these answers."""
    if found is None:
        return []
    return [
        f"The judge's preferences among {found['answers']} answers cycle on {100 * found['share']:.0f} % of "
        f"{found['prompts']} prompts; one answer beats every other on {100 * found['condorcet_winner']:.0f} %."
    ]


def of_health(sweep: SweepRecord) -> list[str]:
    """What moved most over training, of what says whether answers are still those of a language model."""
    runs = {run.title: run for run in started(sweep)}
    changes = {
        f"{title} {who}" if (who := speaker(runs[title], role)) else title: values
        for title, role, values in health_changes(list(runs.values()))
    }
    if not changes:
        return []
    sentences = []
    for i, name in enumerate(HEALTH.values()):
        most = max(changes, key=lambda who: abs(changes[who][i][1] - changes[who][i][0]))
        sentences.append(f"{name} {change_text(*changes[most][i])} ({most})")
    return ["The largest changes from the first tenth of the steps to the last: " + "; ".join(sentences) + "."]
