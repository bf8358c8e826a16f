"""``python -m tabular run``: a learning dynamic on a game, and how it converges."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from slhf.algorithms import ALGORITHMS, Algorithm
from slhf.errors import InvalidParameter
from tabular.commands import options
from tabular.dynamics import DYNAMICS, Trace
from tabular.dynamics import run as follow
from tabular.preferences import PreferenceMatrix

ALIASES = {
    "nash_md_pg": ("nash_md", "softmax"),
    "onpo": ("omwu", "mirror"),
    "ogda": ("omwu", "simplex"),
    "mwu": ("sppo", "mirror"),
}
"""Names from the literature: which spec, in which form."""
ROWS = 12
"""The table's length."""
SHOWN = 6
"""Policies are shown for this many alternatives, those that end likeliest."""

TEXT = """\
algorithms, their forms (the first is the default; * can be sampled) and settings:

{algorithms}

names from the literature: {aliases}

examples:
  python -m tabular run P.csv --algorithm stackelberg_gda --set timescale=10 --steps 10000 --plot convergence.png
  python -m tabular run P.csv --algorithm omwu --form simplex --reference 0.6,0.3,0.1
  python -m tabular run P.csv --algorithm spo --set samples=8 --seed 0 --json
"""


def add(commands: Any) -> None:
    """Declare the command."""
    aliases = ", ".join(f"{name} = {spec} --form {form}" for name, (spec, form) in ALIASES.items())
    parser = options.command(
        commands,
        "run",
        run,
        help="follow a learning dynamic on a preference matrix",
        description="Follow a learning dynamic from the reference, and compare it with the exact solution.",
        epilog=options.FILE_HELP
        + "\n"
        + TEXT.format(algorithms="\n".join(map(_teach, ALGORITHMS.values())), aliases=aliases),
    )
    options.file_options(parser)
    parser.add_argument("--algorithm", required=True, type=_algorithm, metavar="NAME", help="see below")
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=VALUE", help="a setting; repeat for more"
    )
    parser.add_argument("--form", metavar="NAME", help="what the steps move, see below")
    parser.add_argument("--steps", type=int, default=1000, help="how many steps (default 1000)")
    parser.add_argument("--record-every", type=int, help="steps between records (default: a thousandth of the steps)")
    parser.add_argument("--seed", type=int, help="take sampled steps instead of exact expectations")
    parser.add_argument(
        "--reference", type=options.numbers, metavar="P,P,...", help="reference and start; default uniform"
    )
    parser.add_argument(
        "--follower-reference", type=options.numbers, metavar="P,P,...", help="stackelberg_gda: the Follower's"
    )
    options.output_options(parser, "the convergence, and for 3 alternatives the path in the simplex")


def run(args: argparse.Namespace) -> str:
    """The answer."""
    name, form = ALIASES.get(args.algorithm, (args.algorithm, args.form))
    if form != (args.form or form):
        raise InvalidParameter(f"--form {args.form}: {args.algorithm} is {name} --form {form}.")
    spec = specify(ALGORITHMS[name], dict(args.set))
    forms = DYNAMICS[type(spec)].steps if args.seed is None else DYNAMICS[type(spec)].sampled
    form = form or next(iter(forms))
    if form not in forms:
        sampled = "" if args.seed is None else " with --seed"
        raise InvalidParameter(f"--form {form}: not a form of {name}{sampled}; {options.nearest(form, forms)}")
    P = options.load(args)
    options.one_game(P, args)
    every = max(1, args.steps // 1000) if args.record_every is None else args.record_every
    trace = follow(
        spec, P, args.steps, every, form, args.reference, args.follower_reference, progress=True, seed=args.seed
    )
    if args.plot is not None:
        from tabular.commands import plots  # matplotlib takes longer to import than most games to solve

        plots.convergence(args.plot, P, spec, trace)
    if args.json:
        return _as_json(P, spec, form, args.seed, trace)
    tables = [_table(P, trace, index) for index in np.ndindex(P.batch_shape)]
    steps = "exact expectations" if args.seed is None else f"sampled, seed {args.seed}"
    return "\n\n".join([*tables, f"algorithm: {spec!r}\nform: {form}, {steps}"])


def specify(cls: type[Algorithm], given: dict[str, str]) -> Algorithm:
    """The spec with these settings, as text.

    Raises:
        InvalidParameter: names the setting that does not exist, cannot be read or is out of range.
    """
    kinds: dict[str, type[int] | type[float]] = {
        field.name: int if isinstance(field.default, int) else float for field in fields(cls)
    }
    settings: dict[str, float] = {}
    for name, text in given.items():
        if name not in kinds:
            raise InvalidParameter(f"--set {name}: {cls.name} has no such setting; {options.nearest(name, kinds)}")
        try:
            settings[name] = kinds[name](text)
        except ValueError:
            kind = "a whole number" if kinds[name] is int else "a number"
            raise InvalidParameter(f"--set {name}={text}: must be {kind}.") from None
    return cls(**settings)


def field_docs(cls: type[Algorithm]) -> dict[str, str]:
    """What each setting means: the string below its field, in the class or those it extends."""
    docs: dict[str, str] = {}
    for part in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body  # type: ignore[attr-defined]
        for statement, below in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[statement.target.id] = inspect.cleandoc(below.value.value)  # type: ignore[union-attr, attr-defined]
    return docs


def _teach(cls: type[Algorithm]) -> str:
    """A spec for the help: its title, forms, settings with defaults and meaning."""
    dynamics, docs = DYNAMICS[cls], field_docs(cls)
    forms = ", ".join(form + ("*" if form in dynamics.sampled else "") for form in dynamics.steps)
    title = inspect.cleandoc(cls.__doc__ or "").split("\n")[0]
    lines = [*textwrap.wrap(f"{cls.name}: {title}", 110, initial_indent="  ", subsequent_indent="      ")]
    lines.append(f"      forms: {forms}")
    for field in fields(cls):
        text = f"{field.name} = {field.default}: {' '.join(docs[field.name].split())}"
        lines += textwrap.wrap(text, 110, initial_indent="      ", subsequent_indent="          ")
    return "\n".join(lines)


def _algorithm(text: str) -> str:
    known = [*ALGORITHMS, *ALIASES]
    text = text.lower()
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; {options.nearest(text, known)}")
    return text


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def rows(steps: NDArray[np.int_]) -> list[int]:
    """Up to ``ROWS`` indices of records, evenly spaced in the logarithm of their step; first and last included."""
    wanted = np.geomspace(max(1, steps[:2][-1]), max(1, steps[-1]), ROWS - 1)
    nearest = np.abs(np.log(np.maximum(steps, 0.5))[:, None] - np.log(wanted)).argmin(0)
    return sorted({0, *nearest.tolist(), len(steps) - 1})


def likeliest(policy: NDArray[np.float64]) -> list[int]:
    """The ``SHOWN`` likeliest alternatives, in matrix order."""
    return sorted(np.argsort(-policy, kind="stable")[:SHOWN].tolist())


def _table(P: PreferenceMatrix, trace: Trace, index: tuple[int, ...]) -> str:
    shown = likeliest(trace.policies[(-1, *index)])
    names = [P.labels[i] for i in shown]

    def written(policy: NDArray[np.float64]) -> str:
        return " ".join(f"{policy[i]:.4f}" for i in shown)

    body = [
        [
            trace.steps[k],
            f"{trace.gaps[(k, *index)]:.2e}",
            f"{trace.distances[(k, *index)]:.2e}",
            written(trace.policies[(k, *index)]),
            written(trace.averages[(k, *index)]),
        ]
        for k in rows(trace.steps)
    ]
    of = f"({', '.join(names)})" if len(shown) == P.n else f"({', '.join(names)}: likeliest of {P.n})"
    table = tabulate(
        [*body, ["exact", "", "", written(trace.solution[index]), ""]],
        headers=["step", "gap", "distance", f"last policy {of}", "average policy"],
        colalign=("right", "right", "right", "left", "left"),
        disable_numparse=True,
    )
    return f"game {index}\n{table}" if index else table


def _as_json(P: PreferenceMatrix, spec: Algorithm, form: str, seed: int | None, trace: Trace) -> str:
    settings = {field.name: getattr(spec, field.name) for field in fields(spec)}
    head = {"algorithm": spec.name, "settings": settings, "form": form, "seed": seed, "labels": list(P.labels)}
    names = ("steps", "gaps", "distances", "policies", "averages", "solution")
    return json.dumps(head | {name: getattr(trace, name).tolist() for name in names}, indent=2, allow_nan=False)
