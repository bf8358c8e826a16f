"""``python experiments/report.py RUNS_DIR``: write the report of a sweep from what its run directories hold."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import process
from slhf.errors import InvalidData


@dataclass(frozen=True)
class Command:
    """Write the report of a sweep again from its run directories. Nothing is trained or judged.

    Reads the manifests, metrics and samples of all runs in RUNS_DIR and their evaluation, and writes report.html (one
    page that needs no other file), report.md, summary.json and figures/. A sweep that is not finished gets a report
    too, which says what is missing; start it while the sweep runs to see how far it is.

    Examples:
      python experiments/report.py runs/quickstart
      python experiments/report.py runs/kappa/quickstart --out /tmp/look
    """

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")]
    """The directory of a sweep: run.py's --out, then the sweep's name."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUNS_DIR)")] = None
    """Where the report goes."""


def main(arguments: list[str] | None = None, prog: str = "python experiments/report.py") -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, prog, work, arguments, "start it again.")


def work(command: Command) -> None:
    """Write the report, and print its headline."""
    if not command.runs_dir.is_dir():
        raise InvalidData(f"{command.runs_dir}: no such directory; give the sweep's, such as runs/quickstart.")
    from experiments.reporting import report  # here: it brings pandas and matplotlib

    print(report.headline(report.write_again(command.runs_dir, command.out)))


if __name__ == "__main__":
    sys.exit(main())
