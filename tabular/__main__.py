"""The command line: ``python -m tabular solve|describe|audit``.

Exit status: 0 for an answer, 1 for a solver that missed its tolerance, 2 for bad input. Errors are one
line on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from slhf.errors import NotConverged, SLHFError
from tabular.audit import Verdict, audit
from tabular.axioms import AXIOMS, RULES
from tabular.describe import as_table, describe
from tabular.files import read_matrix
from tabular.nash import Selection, solve_nlhf
from tabular.preferences import Missing, PreferenceMatrix, Unranked
from tabular.rlhf import solve_rlhf
from tabular.stackelberg import solve_slhf

SOLVERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "rlhf": (solve_rlhf, ("tau", "reference", "pair_weights", "l2")),
    "nlhf": (solve_nlhf, ("tau", "reference", "selection")),
    "slhf": (solve_slhf, ("tau", "tau_leader", "tau_follower", "reference", "follower_reference")),
}
"""Each concept's solver and the options that it takes."""

FILE_HELP = """\
FILE holds P[i, j], the probability that i is preferred to j, as .csv, .json or .npy. For example:

  ,A,B,C              or            {"labels": ["A", "B", "C"],
  A,.5,.65,.4                        "p": [[0.5, 0.65, 0.4],
  B,.35,.5,.75                             [0.35, 0.5, 0.75],
  C,.6,.25,.5                              [0.6, 0.25, 0.5]]}

It can also be a CSV of comparisons (first row: winner,loser,count) or a PrefLib file (.soc, .soi, .toc, .toi).
"""

SOLVE_EXAMPLES = (
    FILE_HELP
    + """
examples:
  python -m tabular solve P.csv --concept slhf --tau 0.1
  python -m tabular solve P.csv --concept slhf --tau-leader 0 --tau-follower 0.1 --json
  python -m tabular solve P.csv --concept nlhf --selection exact
  python -m tabular solve P.csv --concept nlhf --tau 0.01 --reference 0.5,0.25,0.25
  python -m tabular solve P.csv --concept rlhf --tau 0.1 --pair-weights asked.csv
"""
)

AUDIT_TEXT = """\
Every profile of 3 alternatives and up to 9 voters, then 4 and up to 5 (more, where the axiom leaves few), then
random ones; the counterexample shown is the smallest found. At temperature 0, with every pair equally weighted,
RLHF is the Borda rule, NLHF the maximal lottery, the SLHF Leader the Simpson-Kramer rule. Only profiles with a
unique answer count.

examples:
  python -m tabular audit
  python -m tabular audit --concept slhf --axiom clones --axiom smith
  python -m tabular audit --games 200000 --seed 1 --json
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        print(args.run(args))
    except SLHFError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, NotConverged) else 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m tabular", description="Exact solutions of games, what they satisfy.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    solve = commands.add_parser(
        "solve",
        help="solve a preference matrix as RLHF, NLHF or SLHF",
        description="Solve a preference matrix and certify the answer.",
        epilog=SOLVE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    solve.add_argument("file", metavar="FILE", help="the preference matrix, see below")
    solve.add_argument("--concept", required=True, choices=SOLVERS, help="what to solve for")
    solve.add_argument("--tau", type=float, help="temperature: the price of KL to the reference; 0 for none")
    solve.add_argument("--tau-leader", type=float, help="slhf: the Leader's temperature, instead of --tau")
    solve.add_argument("--tau-follower", type=float, help="slhf: the Follower's temperature, instead of --tau")
    solve.add_argument(
        "--reference", type=_numbers, metavar="P,P,...", help="reference policy (slhf: the Leader's); default uniform"
    )
    solve.add_argument(
        "--follower-reference",
        type=_numbers,
        metavar="P,P,...",
        help="slhf: the Follower's reference, for every answer",
    )
    solve.add_argument("--selection", choices=get_args(Selection), help="nlhf: which equilibrium at --tau 0")
    solve.add_argument("--pair-weights", metavar="FILE", help="rlhf: matrix of how often each pair was compared")
    solve.add_argument("--l2", type=float, help="rlhf: penalty (l2 / 2) sum r^2 on the rewards")
    _file_options(solve)
    solve.set_defaults(run=_solve)
    _add_describe(commands)
    _add_audit(commands)
    return parser


def _file_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--unranked",
        choices=get_args(Unranked),
        help="incomplete orders in a PrefLib file: alternatives left out say nothing, or tie at the bottom",
    )
    command.add_argument(
        "--missing", choices=get_args(Missing), default="raise", help="pairs never compared: an error, or ties"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_describe(commands: Any) -> None:
    command = commands.add_parser(
        "describe",
        help="winners, cycles, transitivity of a preference matrix",
        description="The structure of a preference matrix: winners, sets, scores, cycles, transitivity, reward misfit.",
        epilog=FILE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", metavar="FILE", help="the preferences, see below")
    _file_options(command)
    command.set_defaults(run=_describe)


def _add_audit(commands: Any) -> None:
    command = commands.add_parser(
        "audit",
        help="which axioms each solution concept satisfies",
        description="Search for the smallest profile on which a solution concept breaks an axiom of social choice.",
        epilog=AUDIT_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--concept", action="append", choices=RULES, help="only this one; repeat for more")
    command.add_argument("--axiom", action="append", choices=AXIOMS, help="only this one; repeat for more")
    command.add_argument("--games", type=int, default=20_000, help="random profiles for each pair (default 20000)")
    command.add_argument("--seed", type=int, default=0, help="of the random profiles")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=_audit)


def _describe(args: argparse.Namespace) -> str:
    P = PreferenceMatrix.load(args.file, args.unranked, args.missing)
    games = describe(P)
    if args.json:
        return json.dumps({"games": games} if P.batch_shape else games[0], indent=2, allow_nan=False)
    titles = [f"game {index}\n" if index else "" for index in np.ndindex(P.batch_shape)]
    return "\n\n".join(title + as_table(game) for title, game in zip(titles, games, strict=True))


def _audit(args: argparse.Namespace) -> str:
    concepts, axioms = args.concept or list(RULES), args.axiom or list(AXIOMS)
    pairs = tqdm([(rule, axiom) for axiom in axioms for rule in concepts], desc="audit", leave=False, disable=None)
    verdicts = [audit(rule, axiom, args.games, args.seed) for rule, axiom in pairs]
    if args.json:
        return json.dumps([verdict.to_json() for verdict in verdicts], indent=2)
    return _audit_table(verdicts, concepts, axioms)


def _audit_table(verdicts: list[Verdict], concepts: list[str], axioms: list[str]) -> str:
    cells = {(v.rule, v.axiom): v for v in verdicts}

    def cell(verdict: Verdict) -> str:
        found = verdict.counterexample
        if found is None:
            return f"none in {verdict.applied:,}"
        return f"fails: {found.alternatives} alternatives, {found.voters} voters"

    rows = [[AXIOMS[axiom].title, *(cell(cells[rule, axiom]) for rule in concepts)] for axiom in axioms]
    table = tabulate(rows, headers=["axiom", *(RULES[rule].title for rule in concepts)])
    found = [
        f"{RULES[v.rule].title} fails {AXIOMS[v.axiom].title}:\n{v.counterexample}"
        for v in verdicts
        if v.counterexample
    ]
    note = '"none in N": no counterexample among the N profiles to which the axiom applied. That is no proof.'
    return "\n\n".join([table, note, *found])


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.25,0.25") from None


def _solve(args: argparse.Namespace) -> str:
    solver, accepted = SOLVERS[args.concept]
    every = {name for _, names in SOLVERS.values() for name in names}
    given = {name: getattr(args, name) for name in sorted(every) if getattr(args, name) is not None}
    for name in given:
        if name not in accepted:
            raise SLHFError(f"--{name.replace('_', '-')} has no meaning for --concept {args.concept}; drop it.")
    P = PreferenceMatrix.load(args.file, args.unranked, args.missing)
    if "pair_weights" in given:
        given["pair_weights"] = read_matrix(given["pair_weights"])[0]
    if args.concept == "slhf":
        tau = given.pop("tau", None)
        given = ({} if tau is None else {"tau_leader": tau, "tau_follower": tau}) | given
        if "reference" in given:
            given["leader_reference"] = given.pop("reference")
    solution = solver(P, **given)
    return _as_json(P, args.concept, solution) if args.json else _as_table(P, solution)


def _as_json(P: PreferenceMatrix, concept: str, solution: Any) -> str:
    names = np.array(P.labels, dtype=object)
    games = [
        {
            name: np.asarray(getattr(solution, name)[index]).tolist()
            for name in ("policy", "value", "reward", "follower", "follower_value", "follower_win_rate")
            if hasattr(solution, name)
        }
        | {"support": names[solution.support[index]].tolist()}
        | ({"rational": [str(q) for q in solution.rational[index]]} if _is_exact(solution) else {})
        for index in np.ndindex(P.batch_shape)
    ]
    answer: dict[str, Any] = games[0] if not P.batch_shape else {"games": games}
    head = {"concept": concept, "labels": list(P.labels)}
    return json.dumps(head | answer | {"certificate": solution.certificate.to_json()}, indent=2, allow_nan=False)


def _is_exact(solution: Any) -> bool:
    return bool(solution.certificate.exact)


def _as_table(P: PreferenceMatrix, solution: Any) -> str:
    return "\n\n".join(_game_table(P, solution, index) for index in np.ndindex(P.batch_shape))


def _game_table(P: PreferenceMatrix, solution: Any, index: tuple[int, ...]) -> str:
    columns: dict[str, Any] = {"": P.labels, "policy": solution.policy[index]}
    summary = {"value": solution.value[index]}
    if hasattr(solution, "reward"):
        columns["reward"] = solution.reward[index]
    if hasattr(solution, "follower"):
        columns["value of committing"] = solution.follower_value[index]
        columns |= {f"reply {name}": solution.follower[index][:, j] for j, name in enumerate(P.labels)}
        summary["follower win rate"] = solution.follower_win_rate[index]
    if _is_exact(solution):
        columns["exactly"] = [str(q) for q in solution.rational[index]]
    certificate = solution.certificate
    summary |= {name: np.broadcast_to(getattr(certificate, name), P.batch_shape)[index] for name in ("gap", "residual")}
    lines = [f"game {index}"] if index else []
    lines.append(tabulate(columns, headers="keys", floatfmt=".6f", disable_numparse=[0]))
    lines.append("".join(f"\n{name}: {number:.6g}" for name, number in summary.items())[1:])
    return "\n".join([*lines, f"method: {certificate.method}{' (proved)' if certificate.exact else ''}"])


if __name__ == "__main__":
    sys.exit(main())
