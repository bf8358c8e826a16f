"""What the commands share: errors of one line, options, names with suggestions, figures."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, get_args

from slhf.errors import InvalidParameter
from slhf.names import advice
from tabular.commands import COMMANDS
from tabular.files import Ties
from tabular.preferences import Missing, PreferenceMatrix
from tabular.rankings import Unranked

FILE_HELP = """\
FILE holds P[i, j], the probability that i is preferred to j, as .csv, .json or .npy. For example:

  ,A,B,C              or            {"labels": ["A", "B", "C"],
  A,.5,.65,.4                        "p": [[0.5, 0.65, 0.4],
  B,.35,.5,.75                             [0.35, 0.5, 0.75],
  C,.6,.25,.5                              [0.6, 0.25, 0.5]]}

It can also hold

  comparisons         winner,loser,count      how often (or a weight; without it each row is one)
  battles             model_a,model_b,winner  the winner is model_a, model_b, left, right, a name or tie (see --ties)
  counts of wins      a square matrix, with --counts
  orders              PrefLib's .soc, .soi, .toc, .toi

Tables are .csv, .tsv, .txt, or .json and .jsonl with an object for each row; any of them may be compressed (.gz).
Columns may be in any order and more than these, cells separated by commas, semicolons or tabs, numbers have decimal
commas. Of a matrix one triangle is enough, and the diagonal may be blank. What was assumed is printed as a note.
"""

PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Exit with status 2 at an option that the command does not have; says who has it, or which is nearest."""
        found, rest = self.parse_known_args(args, namespace)
        if not rest:
            return found
        name, parser = rest[0].partition("=")[0], getattr(found, "parser", self)
        if not name.startswith("--"):
            parser.error(f"{parser.prog} takes no {' '.join(rest)!r} here; drop it, and quote what holds spaces")
        others = [command for command in COMMANDS if name in _options_of(command)]
        if others:
            parser.error(f"{parser.prog.split()[-1]} has no option {name}, which is for {', '.join(others)}; drop it")
        return parser.error(f"there is no option {name}; {nearest(name, sorted(parser._option_string_actions))}")


def _options_of(command: str) -> Iterable[str]:
    """The options of a command, which is imported for that."""
    commands = argparse.ArgumentParser().add_subparsers()
    import_module(f"tabular.commands.{command}").add(commands)
    return commands.choices[command]._option_string_actions


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], str], help: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A new command, answered by ``run``; its ``epilog`` is printed as it is."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def file_options(parser: argparse.ArgumentParser) -> None:
    """FILE and how to read it."""
    parser.add_argument("file", metavar="FILE", help="the preferences, see below")
    parser.add_argument(
        "--unranked",
        choices=get_args(Unranked),
        help="incomplete orders in a PrefLib file: alternatives left out say nothing, or tie at the bottom",
    )
    parser.add_argument(
        "--missing",
        choices=get_args(Missing),
        default="raise",
        help="pairs never compared: an error, or ties; rlhf needs neither, they weigh 0 there",
    )
    parser.add_argument(
        "--ties", choices=get_args(Ties), help="battles that end in a tie: half a win each, or left out"
    )
    parser.add_argument("--counts", action="store_true", help="the matrix holds how often each row beat each column")
    parser.add_argument("--percent", action="store_true", help="the matrix holds percentages")
    parser.add_argument(
        "--symmetrise",
        action="store_true",
        help="P[i, j] + P[j, i] misses 1 by rounding, to two decimals or more: split what is missed",
    )


def output_options(parser: argparse.ArgumentParser, picture: str) -> None:
    """--json and --plot."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=_plot_file, metavar="FILE", help=f"also draw {picture} (.png, .pdf or .svg)")


def check_plot(args: argparse.Namespace) -> None:
    """Refuse a picture that cannot be written before any work is done for it, and without a trace.

    Raises:
        InvalidParameter: says why it cannot.
    """
    if args.plot is None:
        return
    try:
        there = args.plot.exists()
        folder = next(parent for parent in args.plot.absolute().parents if parent.exists())
    except OSError as error:  # such as a name too long
        problem = error.errno or errno.EIO
    else:
        writable = os.access(args.plot if there else folder, os.W_OK)
        problem = errno.EISDIR if args.plot.is_dir() else errno.EACCES if not writable else 0
        problem = problem if folder.is_dir() else errno.ENOTDIR
    if problem:
        raise InvalidParameter(f"{args.plot}: cannot be written: {os.strerror(problem)}.")


def load(args: argparse.Namespace) -> PreferenceMatrix:
    """The preferences that :func:`file_options` describe; what was assumed goes to standard error."""
    P = PreferenceMatrix.load(
        args.file,
        args.unranked,
        args.missing,
        ties=args.ties,
        counts=args.counts,
        percent=args.percent,
        symmetrise=args.symmetrise,
    )
    report(args.file, P.notes)
    return P


def report(file: str, notes: Iterable[str]) -> None:
    """Print what was assumed about a file, away from the answer."""
    for note in notes:
        print(f"note: {file}: {note}.", file=sys.stderr)


def as_typed(message: str) -> str:
    """Settings in an error as one types them here: ``missing="half"`` becomes ``--missing half``."""
    message = message.replace("leader_reference", "--reference").replace("follower_reference", "--follower-reference")
    message = re.sub(r'\b(missing|unranked|ties)="(\w+)"', r"--\1 \2", message)
    message = re.sub(r"\b(counts|percent|symmetrise)=True", r"--\1", message)
    return message.replace("pass l2 > 0", "add --l2 with a small number")


def one_game(P: PreferenceMatrix, args: argparse.Namespace) -> None:
    """Refuse to draw a batch."""
    if args.plot is not None and P.batch_shape:
        raise InvalidParameter(f"--plot draws one game; {args.file} holds a batch of shape {P.batch_shape}.")


def numbers(text: str) -> list[float]:
    """ "0.5,0.25,0.25" as a list."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.25,0.25") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say about an unknown name: the nearest valid one, or all."""
    return advice(name, known)


def _plot_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r}: pictures are written as {', '.join(PLOT_SUFFIXES)}")
    return path
