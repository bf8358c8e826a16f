"""``python experiments/readme_numbers.py runs/quickstart``: put the numbers of finished sweeps into the README."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(ROOT))

from experiments import process  # noqa: E402
from experiments.reporting.conclusions import prompts_of, sentences  # noqa: E402
from experiments.reporting.record import SweepRecord, read_sweep  # noqa: E402
from experiments.reporting.report import headline_text  # noqa: E402
from slhf.errors import InvalidData  # noqa: E402
from slhf.runs import write_atomically  # noqa: E402

WIDTH = 118
"""Of the README's lines."""
HOUR = ROOT / "experiments" / "results" / "hour"
"""The committed results of the long run."""


def marks(name: str) -> tuple[str, str]:
    """The lines between which the numbers of a sweep stand."""
    return f"<!-- {name} numbers: written by experiments/readme_numbers.py -->", f"<!-- end of {name} numbers -->"


@dataclass(frozen=True)
class Command:
    """Write the results of sweeps into the README: the table and the sentences that their numbers support.

    Of the sweep in RUNS_DIR what `make run` prints at its end, and the sentences of its report, between the two markers
    "quickstart numbers"; of the committed long run the sentences, between "hour numbers". Without RUNS_DIR the latter
    alone.

    Examples:
      python experiments/readme_numbers.py runs/quickstart
      python experiments/readme_numbers.py runs/quickstart --check
      python experiments/readme_numbers.py --check
    """

    runs_dir: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUNS_DIR]")] = None
    """The directory of a finished sweep."""
    readme: Path = ROOT / "README.md"
    """The file with the markers."""
    check: bool = False
    """Write nothing; fail if the README shows other numbers."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status, see :func:`experiments.process.command`."""
    return process.command(Command, "python experiments/readme_numbers.py", work, arguments, "start it again.")


def work(command: Command) -> None:
    """Write the numbers, or check them."""
    before = after = command.readme.read_text(encoding="utf-8")
    if command.runs_dir is not None:
        after = with_numbers(after, "quickstart", block(read_sweep(command.runs_dir)), command.readme)
        if command.check and after != before:
            raise InvalidData(f"{command.readme} does not show the numbers of {command.runs_dir}; write them again.")
    found, after = after, with_numbers(after, "hour", told(read_sweep(HOUR)), command.readme)
    if command.check and after != found:
        raise InvalidData(f"{command.readme} does not show the numbers of {HOUR}; write them again.")
    if not command.check:
        write_atomically(command.readme, after)


def block(sweep: SweepRecord) -> str:
    """What the sweep printed, indented as code, what it shows, and where it ran.

    Raises:
        InvalidData: it is not finished.
    """
    printed = headline_text(evaluated(sweep)["win_rates"], Path("runs") / sweep.name / "report.md")
    return f"{textwrap.indent(printed.strip(), ' ' * 4)}\n\n{told(sweep)}"


def told(sweep: SweepRecord) -> str:
    """The sentences that the numbers of the sweep support, as a list, and where they were measured.

    Raises:
        InvalidData: it is not finished.
    """
    evaluation = evaluated(sweep)
    items = [textwrap.fill(item, WIDTH, initial_indent="- ", subsequent_indent="  ") for item in sentences(evaluation)]
    first = sweep.runs[0]
    where = (
        f"*Measured at commit {first.environment['commit']} with torch {first.environment['torch']} on "
        f"{first.environment['cpus']} CPUs; seed {first.config['seed']}, {prompts_of(evaluation)} held-out prompts.*"
    )
    return "\n\n".join(["\n".join(items), where])


def evaluated(sweep: SweepRecord) -> dict[str, Any]:
    """The evaluation of a finished sweep.

    Raises:
        InvalidData: it is not finished.
    """
    if sweep.evaluation is None or not sweep.finished:
        raise InvalidData(f"The sweep {sweep.name} is not finished; the README shows only numbers of whole sweeps.")
    return sweep.evaluation


def with_numbers(readme: str, name: str, numbers: str, path: Path) -> str:
    """The README with what is between the markers of a sweep replaced.

    Raises:
        InvalidData: it does not hold each marker once, in order.
    """
    first, last = marks(name)
    before, begin, rest = readme.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end) or first in rest or last in before + after:
        raise InvalidData(f"{path} must hold the lines {first} and {last} once each, in this order.")
    return f"{before}{first}\n\n{numbers}\n\n{last}{after}"


if __name__ == "__main__":
    sys.exit(main())
