"""What an evaluation says: one function per section, each None where the evaluation did not ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reporting.render import Picture, Section, Table, Text
from slhf import figures
from slhf.intervals import bounds, by_chance, side, too_few, with_interval

BASE = "Base"
"""The untrained model, as players are named."""
LEADER, FOLLOWER = " Leader", " Follower"
"""How the names of the two players of one policy end."""
MOST_NOTES = 7
"""Heat maps of more players show no intervals; the table does."""
SAMPLES = 8
"""Prompts whose answers are shown side by side."""

Rows = Sequence[Mapping[str, Any]]


def remarks(rows: Rows, pairs: bool = False) -> list[Text]:
    """What has to be said below a table of estimates: that there are no intervals, or how many chance would move.

    Args:
        rows: what the table shows; estimates that could not vary are not counted.
        pairs: whether each pair stands there twice, as itself and turned round.
    """
    able = [row for row in rows if bounds(row)[0] is not None and row["low"] < row["high"]]
    few = too_few(min((row["n"] for row in rows if "n" in row), default=len(able)))
    texts = [few, by_chance(len(able) // (2 if pairs else 1))]
    return [Text(text) for text in texts if text]


def pivot(cells: Mapping[tuple[str, str], str], corner: str, caption: str = "") -> Table:
    """(row, column) -> text as a table, in order of first appearance; a dash where there is none.

    Where all columns are rows too, they have the order of the rows.
    """
    rows, columns = ordered(cells)
    return Table([corner, *columns], [[row, *(cells.get((row, c), "–") for c in columns)] for row in rows], caption)


def ordered(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Rows and columns of a table of (row, column), as :func:`pivot` orders them."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    return rows, [name for name in rows if name in columns] if set(columns) <= set(rows) else columns


def win_rate_table(rates: Rows) -> Table:
    """Rows against columns, each cell with its interval."""
    return pivot({(rate["row"], rate["column"]): with_interval(rate) for rate in rates}, "")


def against_base(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """Player -> its row against the base model."""
    return {row["row"]: row for row in rows if row["column"] == BASE}


def heat_map(rows: Rows, row: str, column: str, ylabel: str, xlabel: str) -> Figure:
    """Means with, where there is room, intervals; otherwise a frame where the interval leaves out 1/2."""
    names, across = ordered((r[row], r[column]) for r in rows)
    values = np.full((len(names), len(across)), np.nan)
    notes = [[""] * len(across) for _ in names]
    clear = np.zeros(values.shape, dtype=bool)
    for r in rows:
        place = names.index(r[row]), across.index(r[column])
        values[place], clear[place] = r["mean"], side(r) in ("above", "below")
        low, high = bounds(r)
        notes[place[0]][place[1]] = "" if low is None else f"[{low:.2f}, {high:.2f}]"
    roomy = len(across) <= MOST_NOTES
    labels = [figures.wrapped(name) for name in names]
    figure, axes = figures.new_figure(
        width=1.7 + (0.75 if roomy else 0.45) * len(across), height=1.1 + (0.45 if roomy else 0.36) * len(names)
    )
    title = "" if roomy else "framed: the interval leaves out .5"
    figures.heat_map(
        axes[0, 0],
        values,
        labels,
        [figures.wrapped(name) for name in across],
        title,
        notes if roomy else None,
        None if roomy else clear,
    )
    axes[0, 0].set(ylabel=ylabel, xlabel=xlabel)
    return figure


def forest(series: Mapping[str, Mapping[str, Mapping[str, Any]]], xlabel: str) -> Figure:
    """Series -> label -> row with mean, low and high, as a figure."""
    labels = list(dict.fromkeys(label for rows in series.values() for label in rows))
    missing = {"mean": np.nan, "low": np.nan, "high": np.nan}
    figure, axes = figures.new_figure(width=4.6, height=0.9 + 0.32 * len(labels))
    columns = {name: triple([rows.get(label, missing) for label in labels]) for name, rows in series.items()}
    figures.forest(axes[0, 0], columns, labels, xlabel)
    return figure


def win_rates(evaluation: Mapping[str, Any]) -> Section:
    """Everyone against everyone."""
    rates = evaluation["win_rates"]
    return Section(
        "Win rates",
        [
            Text(
                "How often the row is preferred to the column on held-out prompts, with 95 % bootstrap intervals over "
                "prompts. Base as Follower is the untrained model asked to improve its own answer: what a second try "
                "is worth without training."
            ),
            win_rate_table(rates),
            *remarks(rates, pairs=True),
            Picture(
                "win_rates",
                heat_map(rates, "row", "column", "preference for", "over"),
                "Share of held-out prompts on which the row is preferred to the column; orange above one half.",
            ),
        ],
    )


def length(evaluation: Mapping[str, Any]) -> Section | None:
    """What is left of the win rates between answers of equal length."""
    if "length_control" not in evaluation:
        return None
    raw, equal = against_base(evaluation["win_rates"]), against_base(evaluation["length_control"])
    slopes = against_base(evaluation.get("length_bias", ()))
    rows = [
        [name, with_interval(raw[name]), with_interval(row), slope_text(slopes.get(name))]
        for name, row in equal.items()
    ]
    cells = {(r["row"], r["column"]): with_interval(r) for r in evaluation["length_control"]}
    return Section(
        "Length",
        [
            Text(
                "A judge may prefer long or short answers as such. The judge's preferences are fitted by a logistic "
                "regression on the difference in length (tanh of the difference in words over its root mean square): "
                "at equal length is the win rate where the difference is zero, the slope, in log-odds, is positive "
                "where longer answers are preferred."
            ),
            Table(["against Base", "win rate", "at equal length", "slope (log-odds)"], rows),
            *remarks(list(equal.values())),
            Picture(
                "length_control",
                forest({"as judged": raw, "at equal length": equal}, "preferred to the base's first answer"),
                "Win rate over the base model as judged and at equal length, with 95 % intervals.",
            ),
            pivot(cells, "", "All pairs at equal length."),
            *remarks(evaluation["length_control"], pairs=True),
        ],
    )


def slope_text(row: Mapping[str, Any] | None) -> str:
    """A slope with its interval."""
    return "–" if row is None else with_interval({**row, "mean": row["slope"]}, "+.2f", "+.2f")


def leader_follower(evaluation: Mapping[str, Any]) -> Section | None:
    """Every policy's Follower after every policy's Leader."""
    rows = evaluation.get("leader_follower")
    if not rows:
        return None
    cells = {(r["leader"], r["follower"]): with_interval(r) for r in rows}
    return Section(
        "Who improves whom",
        [
            Text("How often a reply (column: who improves) is preferred to the answer that it saw (row: whose)."),
            pivot(cells, "answer \\ improved by"),
            *remarks(rows),
            Picture(
                "leader_follower",
                heat_map(rows, "leader", "follower", "answer", "improved by"),
                "Share of prompts on which the column's reply is preferred to the row's answer that it saw.",
            ),
        ],
    )


def refinement(evaluation: Mapping[str, Any]) -> Section:
    """Rounds of refinement, and what the same number of answers buys otherwise."""
    rounds = evaluation["refinement"]
    figure, axes = figures.new_figure(width=4.6, height=2.8)
    figures.intervals(
        axes[0, 0], curves(rounds, "policy", "round"), "refinement round", "preferred to the base's first answer"
    )
    axes[0, 0].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    blocks: list[Text | Table | Picture] = [
        Text(
            "Each round's answers against the base model's first answers. Round 1 is the first answer (of SLHF the "
            "Leader's); the Follower, or the base model asked to improve, then improves on the previous round."
        ),
        by_number(rounds, "policy", "round", ""),
        *remarks(rounds),
        Picture("refinement", figure, "Preference over the base's first answers, by round, with 95 % intervals."),
    ]
    if evaluation.get("parity"):
        blocks += parity(evaluation["parity"])
    return Section("Refinement", blocks)


def parity(rows: Rows) -> list[Text | Table | Picture]:
    """Refinement beside best of n and resampling, each with the same number of generations."""
    panels = {
        policy: curves([r for r in rows if r["policy"] == policy], "method", "generations")
        for policy in dict.fromkeys(r["policy"] for r in rows)
    }
    figure = figures.interval_panels(panels, "answers generated", "preferred to the base")
    named = [{**r, "name": f"{r['policy']}, {r['method']}"} for r in rows]
    return [
        Text(
            "At compute parity: the last answer of so many rounds of refinement, the best of as many first answers, "
            "and one of them at random, each against the base's first answers. Best of n is chosen by the judge that "
            "then says how good the choice is, so it is optimistic."
        ),
        by_number(named, "name", "generations", "answers generated"),
        *remarks(rows),
        Picture("parity", figure, "Preference over the base's first answers by number of generations, 95 % intervals."),
    ]


def by_number(rows: Rows, name: str, number: str, corner: str) -> Table:
    """One row per value of ``name``, the numbers in order as columns."""
    numbers = sorted({r[number] for r in rows})
    cells = {(r[name], r[number]): with_interval(r) for r in rows}
    body = [[key, *(cells.get((key, n), "–") for n in numbers)] for key in dict.fromkeys(r[name] for r in rows)]
    return Table([corner or number, *map(str, numbers)], body)


def curves(rows: Rows, name: str, x: str) -> dict[str, tuple[Any, Any, Any, Any]]:
    """One series per value of ``name``: x, mean, low, high."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(row[name], []).append(row)
    return {key: ([row[x] for row in own], *triple(own)) for key, own in series.items()}


def triple(rows: Rows) -> tuple[list[float], list[float], list[float]]:
    """Means, lower and upper ends; NaN where there is no interval, which draws no bar."""
    lows, highs = zip(*([np.nan if end is None else end for end in bounds(row)] for row in rows), strict=True)
    return [row["mean"] for row in rows], list(lows), list(highs)


def cycles(evaluation: Mapping[str, Any]) -> Section | None:
    """Intransitivity among sampled answers, which concept picks which, and selection among them."""
    blocks: list[Text | Table | Picture] = []
    if found := evaluation.get("cycles"):
        blocks += cycle_statistics(found)
    if concepts := evaluation.get("concepts"):
        cells = {(r["concept"], other): f"{v:.2f}" for r in concepts for other, v in r["agrees_with"].items()}
        blocks += [
            Text(
                "What each concept would answer with, choosing among the sampled answers by the judge's preferences "
                "among them. Agreement is the mean over prompts of one minus the total variation of two choices: the "
                "share of prompts on which they pick the same text, where both are sure of it."
            ),
            pivot(cells, "", "Agreement of the concepts' choices."),
        ]
    if chosen := evaluation.get("selection"):
        blocks += selection(chosen)
    return Section("Cycles and selection among answers", blocks) if blocks else None


def cycle_statistics(found: Mapping[str, Any]) -> list[Text | Table | Picture]:
    """How often the judge's preferences go round in a circle."""
    players = ", ".join(found["players"])
    names = {
        "share": "share of prompts with a cycle",
        "condorcet_winner": "share with a Condorcet winner, an answer that beats every other",
        "cyclic_triples": "share of triples of answers that form a cycle",
        "ties": "share of pairs without an edge",
        "distinct": "different texts among the answers, mean",
        "longest": "largest set of answers that reach each other by wins, mean over prompts with a cycle",
    }
    rows = [[name, f"{found[key]:.3f}"] for key, name in names.items() if found.get(key) is not None]
    if "low" in found:
        rows[0][1] = with_interval(
            {"mean": found["share"], "n": found["prompts"], "low": found["low"], "high": found["high"]}
        )
    rows += [[f"prompts whose shortest cycle has {n} answers", str(count)] for n, count in found["lengths"].items()]
    return [
        Text(
            f"{found['answers']} answers to each of {found['prompts']} prompts, sampled from {players}, meet each "
            f"other. There is an edge from an answer to another where {found['edge']}."
        ),
        Table(["", "value"], rows),
    ]


def selection(rows: Rows) -> list[Text | Table | Picture]:
    """One answer chosen among the sampled ones by each method."""
    pools: dict[str, dict[str, Mapping[str, Any]]] = {}
    for r in rows:
        pools.setdefault(r.get("candidates", "all"), {})[r["method"]] = r
    cells = {(method, pool): with_interval(r) for pool, own in pools.items() for method, r in own.items()}
    everyone = next(iter(pools.values()))
    return [
        Text(
            "The chosen answer against the base's first answers, by whose samples it was chosen from. The judge that "
            "chooses also says how good the choice is, so all but one at random are optimistic."
        ),
        pivot(cells, "method"),
        *remarks(rows),
        Picture(
            "selection",
            forest({"chosen": everyone}, "preferred to the base's first answer"),
            f"One answer chosen among the samples of {next(iter(pools))} players, with 95 % intervals.",
        ),
    ]


def attributes(evaluation: Mapping[str, Any]) -> Section | None:
    """What the judge looks at, and what it reported of itself."""
    blocks: list[Text | Table] = []
    if means := evaluation.get("attributes"):
        base = means.get(BASE, {})
        rows = [
            [
                name,
                *(
                    f"{value:.3f}" if name == BASE else f"{value:.3f} ({value - base[key]:+.3f})"
                    for key, value in own.items()
                ),
            ]
            for name, own in means.items()
        ]
        header = ["", *next(iter(means.values()))]
        blocks += [
            Text(
                "Mean attributes of the held-out answers, with the difference to the base model: where a preference "
                "comes from, and which attributes paid for it."
            ),
            Table(header, rows),
        ]
    if metered := evaluation.get("judge"):
        blocks.append(Table(["the judge during the evaluation", ""], [[k, f"{v:g}"] for k, v in metered.items()]))
    return Section("What the judge sees", blocks) if blocks else None


def pairs_of(players: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Policy -> its player that answers and, if it has one, the player that improves on that."""
    names = list(players)
    found: dict[str, tuple[str, str | None]] = {}
    for name in names:
        policy = name.removesuffix(LEADER)
        if name == BASE:
            found[name] = (BASE, "Base as Follower" if "Base as Follower" in names else None)
        elif name.endswith(LEADER) and policy + FOLLOWER in names:
            found[policy] = (name, policy + FOLLOWER)
        elif not (name == "Base as Follower" or name.removesuffix(FOLLOWER) + LEADER in names):
            found[name] = (name, None)
    return found


def samples(evaluation: Mapping[str, Any]) -> Section:
    """Answers of all policies to the first held-out prompts, Leader and Follower side by side."""
    answers, verdicts = evaluation["answers"], evaluation["verdicts"]

    def cells(player: str | None, i: int) -> list[str]:
        if player is None:
            return ["", ""]
        return [answers[player][i], f"{verdicts[player][i]:.1f}" if player in verdicts else "–"]

    tables = [
        Table(
            ["policy", "answer", "p", "improved by the Follower", "p"],
            [[policy, *cells(first, i), *cells(second, i)] for policy, (first, second) in pairs_of(answers).items()],
            f"{i + 1}. {prompt}",
        )
        for i, prompt in enumerate(evaluation["prompts"][:SAMPLES])
    ]
    return Section(
        "Sample answers",
        [
            Text(
                "p is the judge's preference for the answer over the base model's. Where there is a Follower, the "
                "answer is the Leader's."
            ),
            *tables,
        ],
    )
