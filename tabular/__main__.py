"""The command line: ``python -m tabular solve|run|describe|audit``.

Exit status: 0 for an answer, 1 for a solver that missed its tolerance, 2 for bad input. Errors are one
line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slhf.errors import NotConverged, SLHFError
from tabular.commands import audit, describe, options, run, solve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        try:
            return _answer(_parser().parse_args(argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _answer(args: argparse.Namespace) -> int:
    try:
        options.check_plot(args)
        print(args.run(args))
    except SLHFError as error:
        print("error:", options.as_typed(" ".join(str(error).split())), file=sys.stderr)
        return 1 if isinstance(error, NotConverged) else 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="python -m tabular", description="Exact solutions of games, what they satisfy, what finds them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (solve, run, describe, audit):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
