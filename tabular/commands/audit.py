"""``python -m tabular audit``: which axioms each solution concept satisfies."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from tabular.audit import SMALL_SIZES, Verdict, audit
from tabular.axioms import AXIOMS, RULES, Axiom
from tabular.commands import options

TEXT = """\
At temperature 0, with every pair equally weighted, RLHF is the Borda rule, NLHF the maximal lottery, the SLHF
Leader the Simpson-Kramer rule; Copeland's rule is there for comparison. Only profiles with a unique answer
count, before and after what an axiom changes, so that nothing rests on how ties are broken. Failures that need
more than 4 alternatives are out of reach (Copeland's rule breaks independence of clones with 5).

axioms, and how many voters (in all electorates) every profile is tried with, for 3 and 4 alternatives; random
profiles of 4 follow. What these find is shrunk, but a smaller profile may exist: "or fewer".
{axioms}

examples:
  python -m tabular audit
  python -m tabular audit --concept slhf --axiom clones --axiom smith
  python -m tabular audit --games 200000 --seed 1 --json
"""


def _line(name: str, axiom: Axiom) -> str:
    ranges = " and ".join(str(most) for most in axiom.most_voters)
    return f"  {name:17} up to {ranges:8} {axiom.definition}"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = options.command(
        commands,
        "audit",
        run,
        help="which axioms each solution concept satisfies",
        description="Search for the smallest profile on which a solution concept breaks an axiom of social choice.",
        epilog=TEXT.format(axioms="\n".join(_line(name, axiom) for name, axiom in AXIOMS.items())),
    )
    parser.add_argument(
        "--concept", action="append", type=str.lower, choices=RULES, help="only this one; repeat for more"
    )
    parser.add_argument(
        "--axiom", action="append", type=str.lower, choices=AXIOMS, help="only this one; repeat for more"
    )
    parser.add_argument("--games", type=int, default=20_000, help="random profiles for each pair (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random profiles")
    options.output_options(parser, "the table")


def run(args: argparse.Namespace) -> str:
    """The answer."""
    concepts, axioms = args.concept or list(RULES), args.axiom or list(AXIOMS)
    pairs = tqdm([(rule, axiom) for axiom in axioms for rule in concepts], desc="audit", leave=False, disable=None)
    verdicts = [audit(rule, axiom, args.games, args.seed) for rule, axiom in pairs]
    if args.plot is not None:
        from tabular.commands import plots  # matplotlib takes longer to import than most games to solve

        plots.verdicts(args.plot, verdicts, concepts, axioms)
    if args.json:
        return json.dumps([verdict.to_json() for verdict in verdicts], indent=2)
    return _table(verdicts, concepts, axioms)


def _table(verdicts: list[Verdict], concepts: list[str], axioms: list[str]) -> str:
    cells = {(v.rule, v.axiom): v for v in verdicts}
    rows = [[AXIOMS[axiom].title, *(cells[rule, axiom].summary for rule in concepts)] for axiom in axioms]
    table = tabulate(rows, headers=["axiom", *(RULES[rule].title for rule in concepts)])
    found = [
        f"{RULES[v.rule].title} fails {AXIOMS[v.axiom].title}:\n{v.counterexample}"
        for v in verdicts
        if v.counterexample
    ]
    note = (
        '"none in N": no counterexample among the N profiles to which the axiom applied, '
        f"with {' or '.join(map(str, SMALL_SIZES))} alternatives. That is no proof."
    )
    return "\n\n".join([table, note, *found])
