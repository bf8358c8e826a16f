"""``python experiments/readme_numbers.py runs/quickstart``: put the numbers of a finished sweep into the README."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(ROOT))

from experiments import process  # noqa: E402
from experiments.reporting.record import SweepRecord, read_sweep  # noqa: E402
from experiments.reporting.report import headline_text  # noqa: E402
from slhf.errors import InvalidData  # noqa: E402
from slhf.runs import write_atomically  # noqa: E402

BEGIN = "<!-- quickstart numbers: written by experiments/readme_numbers.py -->"
END = "<!-- end of quickstart numbers -->"


@dataclass(frozen=True)
class Command:
    """Write what `make run` prints at its end into the README, between its two markers.

    Examples:
      python experiments/readme_numbers.py runs/quickstart
      python experiments/readme_numbers.py runs/quickstart --check
    """

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")]
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
    before = command.readme.read_text(encoding="utf-8")
    after = with_numbers(before, block(read_sweep(command.runs_dir)), command.readme)
    if command.check and after != before:
        raise InvalidData(f"{command.readme} does not show the numbers of {command.runs_dir}; write them again.")
    if not command.check:
        write_atomically(command.readme, after)


def block(sweep: SweepRecord) -> str:
    """What the sweep printed, indented as code, and where it ran.

    Raises:
        InvalidData: it is not finished.
    """
    if sweep.evaluation is None or not sweep.finished:
        raise InvalidData(f"The sweep {sweep.name} is not finished; the README shows only numbers of whole sweeps.")
    printed = headline_text(sweep.evaluation["win_rates"], Path("runs") / sweep.name / "report.md")
    first = sweep.runs[0]
    where = (
        f"*Measured at commit {first.environment['commit']} with torch {first.environment['torch']} on "
        f"{first.environment['cpus']} CPUs; seed {first.config['seed']}, {len(sweep.evaluation['prompts'])} "
        "held-out prompts.*"
    )
    return f"{textwrap.indent(printed.strip(), ' ' * 4)}\n\n{where}"


def with_numbers(readme: str, numbers: str, path: Path) -> str:
    """The README with what is between the markers replaced.

    Raises:
        InvalidData: it does not hold each marker once, in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InvalidData(f"{path} must hold the lines {BEGIN} and {END} once each, in this order.")
    return f"{before}{BEGIN}\n\n{numbers}\n\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
