"""The command line: ``python -m tabular solve|run|describe|audit``.

Exit status: 0 for an answer, 1 for a solver that missed its tolerance, 2 for bad input. Errors are one
line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from slhf.errors import NotConverged, SLHFError
from tabular.commands import COMMANDS, options


def main(argv: Sequence[str] | None = None, prog: str = "python -m tabular") -> int:
    """Run the command line, which was started as ``prog``; returns the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        try:
            return _answer(_parser(given, prog).parse_args(given))
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


def _parser(argv: Sequence[str], prog: str) -> argparse.ArgumentParser:
    """All commands by name; of the one that ``argv`` asks for the options."""
    parser = options.Parser(prog=prog, description="Exact solutions of games, what they satisfy, what finds them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next(iter(argv), "")
    for name, line in COMMANDS.items():
        if name == asked:
            import_module(f"tabular.commands.{name}").add(commands)
            chosen = commands.choices[name]
            chosen.epilog = (chosen.epilog or "").replace("python -m tabular", prog)
        else:
            commands.add_parser(name, help=line)
    return parser


if __name__ == "__main__":
    sys.exit(main())
