"""What the commands share: errors of one line, options, names with suggestions, figures."""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, get_args

from slhf.errors import InvalidParameter
from slhf.names import advice
from tabular.files import PREFLIB
from tabular.preferences import Missing, PreferenceMatrix, Unranked

FILE_HELP = """\
FILE holds P[i, j], the probability that i is preferred to j, as .csv, .json or .npy. For example:

  ,A,B,C              or            {"labels": ["A", "B", "C"],
  A,.5,.65,.4                        "p": [[0.5, 0.65, 0.4],
  B,.35,.5,.75                             [0.35, 0.5, 0.75],
  C,.6,.25,.5                              [0.6, 0.25, 0.5]]}

It can also be a CSV of comparisons (first row: winner,loser,count) or a PrefLib file (.soc, .soi, .toc, .toi).
"""

PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2; an option that does not exist comes with the nearest that does."""
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        if unknown:
            message = f"there is no option {unknown[1]}; {nearest(unknown[1], sorted(self._options()))}"
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def _options(self) -> set[str]:
        """Of this parser and of its commands."""
        commands = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        inner = [parser for action in commands for parser in action.choices.values()]
        return {*self._option_string_actions}.union(*(parser._options() for parser in inner))


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], str], help: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A new command, answered by ``run``; its ``epilog`` is printed as it is."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
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
        "--missing", choices=get_args(Missing), default="raise", help="pairs never compared: an error, or ties"
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
    """The preferences that :func:`file_options` describe."""
    if args.unranked is not None and Path(args.file).suffix.lower() not in PREFLIB:
        raise InvalidParameter(f"--unranked has no meaning for {args.file}, which is no PrefLib file; drop it.")
    return PreferenceMatrix.load(args.file, args.unranked, args.missing)


def as_typed(message: str) -> str:
    """Settings in an error's advice as one types them here: ``missing="half"`` becomes ``--missing half``."""
    return re.sub(r'\b(missing|unranked)="(\w+)"', r"--\1 \2", message)


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
