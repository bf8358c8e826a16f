"""``python -m tabular solve``: a preference matrix as RLHF, NLHF or SLHF."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from tabulate import tabulate

import tabular
from slhf.errors import NotConverged, SLHFError
from tabular.commands import options
from tabular.files import read_weights
from tabular.preferences import PreferenceMatrix

SOLVERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rlhf": ("solve_rlhf", ("tau", "reference", "pair_weights", "l2")),
    "nlhf": ("solve_nlhf", ("tau", "reference", "selection")),
    "slhf": ("solve_slhf", ("tau", "tau_leader", "tau_follower", "reference", "follower_reference")),
}
"""Each concept's solver in ``tabular``, imported when it is asked for, and the options that it takes."""

SELECTIONS = ("any", "max_entropy", "exact")
"""What ``tabular.nash.Selection`` allows, which would bring all that solves NLHF."""

EXAMPLES = """
examples:
  python -m tabular solve P.csv --concept slhf --tau 0.1
  python -m tabular solve P.csv --concept slhf --tau-leader 0 --tau-follower 0.1 --json
  python -m tabular solve P.csv --concept nlhf --selection exact --plot nash.png
  python -m tabular solve P.csv --concept nlhf --tau 0.01 --reference 0.5,0.25,0.25
  python -m tabular solve P.csv --concept rlhf --tau 0.1 --pair-weights asked.csv
  python -m tabular solve battles.jsonl --concept rlhf --ties half
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = options.command(
        commands,
        "solve",
        run,
        help="solve a preference matrix as RLHF, NLHF or SLHF",
        description="Solve a preference matrix and certify the answer.",
        epilog=options.FILE_HELP + EXAMPLES,
    )
    options.file_options(parser)
    parser.add_argument("--concept", required=True, type=str.lower, choices=SOLVERS, help="what to solve for")
    parser.add_argument(
        "--tau", type=float, help="temperature: the price of KL to the reference; 0 for none; default 0.1, for nlhf 0"
    )
    parser.add_argument("--tau-leader", type=float, help="slhf: the Leader's temperature, instead of --tau")
    parser.add_argument("--tau-follower", type=float, help="slhf: the Follower's temperature, instead of --tau")
    parser.add_argument(
        "--reference",
        type=options.numbers,
        metavar="P,P,...",
        help="reference policy (slhf: the Leader's); default uniform",
    )
    parser.add_argument(
        "--follower-reference",
        type=options.numbers,
        metavar="P,P,...",
        help="slhf: the Follower's reference, for every answer",
    )
    parser.add_argument("--selection", choices=SELECTIONS, help="nlhf: which equilibrium at --tau 0")
    parser.add_argument(
        "--pair-weights",
        metavar="FILE",
        help='rlhf: matrix of how often each pair was compared, instead of what the preferences know; or "equal"',
    )
    parser.add_argument("--l2", type=float, help="rlhf: penalty (l2 / 2) sum r^2 on the rewards")
    options.output_options(parser, "the preferences and the policies")


def run(args: argparse.Namespace) -> str:
    """The answer."""
    name, accepted = SOLVERS[args.concept]
    solver = getattr(tabular, name)
    every = {name for _, names in SOLVERS.values() for name in names}
    given = {name: getattr(args, name) for name in sorted(every) if getattr(args, name) is not None}
    for name in given:
        if name not in accepted:
            raise SLHFError(f"--{name.replace('_', '-')} has no meaning for --concept {args.concept}; drop it.")
    P = options.load(args)
    options.one_game(P, args)
    if given.get("pair_weights", "equal") != "equal":
        given["pair_weights"], notes = read_weights(args.pair_weights, P.labels)
        options.report(args.pair_weights, notes)
    if args.concept == "slhf":
        tau = given.pop("tau", None)
        given = ({} if tau is None else {"tau_leader": tau, "tau_follower": tau}) | given
        if "reference" in given:
            given["leader_reference"] = given.pop("reference")
    solution = solver(P, **given)
    temperatures = temperatures_of(solver, given)
    facts = facts_of(P, args, temperatures)
    if args.plot is not None:
        from tabular.commands import plots  # matplotlib takes longer to import than most games to solve

        plots.solution(args.plot, P, args.concept, solution, temperatures)
    if args.json:
        return _as_json(P, args.concept, solution, temperatures, facts)
    tables = [_game_table(P, solution, index) for index in np.ndindex(P.batch_shape)]
    ends = {name: f"{tau:g}" for name, tau in temperatures.items()}
    ends |= {name.replace("_", " "): text for name, (_, text) in facts.items()}
    return "\n\n".join(tables) + "".join(f"\n{name}: {text}" for name, text in ends.items())


def facts_of(
    P: PreferenceMatrix, args: argparse.Namespace, temperatures: dict[str, float]
) -> dict[str, tuple[Any, str]]:
    """What an answer rests on besides its temperatures, for JSON and for reading.

    For rlhf the pair weights; for nlhf without a temperature the selection, and whether there are other answers.
    """
    if args.concept == "rlhf":
        return {"pair_weights": weights_used(P, args)}
    if args.concept == "slhf" or temperatures["tau"] > 0:
        return {}
    found = [uniqueness(P, index) for index in np.ndindex(P.batch_shape)]
    unique = [one for one, _ in found] if P.batch_shape else found[0][0]
    return {"selection": (args.selection or "any",) * 2, "unique": (unique, " | ".join(text for _, text in found))}


def weights_used(P: PreferenceMatrix, args: argparse.Namespace) -> tuple[Any, str]:
    """What weighted the pairs, for JSON and for reading."""
    if args.pair_weights is not None:
        return args.pair_weights, args.pair_weights
    if P.pair_weights is None:
        return "equal", f"equal, for {args.file} does not say how often each pair met"
    never = int(np.sum(np.triu(P.pair_weights == 0, 1)))
    pairs = P.pair_weights.size // P.n**2 * (P.n * (P.n - 1) // 2)
    rest = f"; {never} of {pairs} pairs never met and weigh 0" if never else ""
    return {"counts": args.file, "never_met": never}, f"how often each pair met{rest}"


def uniqueness(P: PreferenceMatrix, index: tuple[int, ...]) -> tuple[bool | None, str]:
    """Whether a game has one equilibrium without a temperature, for JSON and for reading; None if nobody can tell."""
    from tabular.uniqueness import all_lotteries  # here: it brings linear programming, and only this needs it

    try:
        found = all_lotteries(P.margins[index])
    except NotConverged:
        return None, "cannot be told, for the game is almost degenerate"
    if found.unique:
        return True, "yes"
    names = ", ".join(label for label, played in zip(P.labels, found.played, strict=True) if played)
    rest = f"every policy on {names} is an equilibrium" if found.every_policy else f"equilibria play some of {names}"
    return False, f"no, {rest}"


def temperatures_of(solver: Callable[..., Any], given: dict[str, Any]) -> dict[str, float]:
    """What the solver was told or, by default, took."""
    names = inspect.signature(solver).parameters
    return {name: given.get(name, names[name].default) for name in names if name.startswith("tau")}


def _as_json(
    P: PreferenceMatrix,
    concept: str,
    solution: Any,
    temperatures: dict[str, float],
    facts: dict[str, tuple[Any, str]],
) -> str:
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
    head = {"concept": concept, **temperatures, **{name: value for name, (value, _) in facts.items()}}
    head |= {"labels": list(P.labels), "notes": list(P.notes)}
    return json.dumps(head | answer | {"certificate": solution.certificate.to_json()}, indent=2, allow_nan=False)


def _is_exact(solution: Any) -> bool:
    return bool(solution.certificate.exact)


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
