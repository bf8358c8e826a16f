"""``python experiments/run.py [SWEEP.yaml] [--set key=value ...]``: run a sweep and read its report."""

from __future__ import annotations

import ctypes
import inspect
import json
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    # Started as a script, Python looks beside this file; the packages are one folder up.
    sys.path.insert(0, str(HERE.parent))

from experiments import finite_answers, language_models, report  # noqa: E402
from experiments.config import FiniteAnswersSweep, LanguageModelSweep, load_sweep  # noqa: E402
from llm import embedded  # noqa: E402
from slhf.errors import SLHFError  # noqa: E402

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt(3)."""


@dataclass(frozen=True)
class Command:
    """Run a sweep: train, evaluate, write the report.

    With no argument: the quickstart. It trains StackelbergGDA, RLOO and Nash-MD-PG on a small language model
    that comes with the installation, lets them and the base model meet on held-out prompts, and prints the
    table of win rates and where the report is (about twelve minutes on two CPU cores, after set-up).

    A finished run is never repeated and an interrupted one resumes: start the same command again.

    Examples:

      python experiments/run.py

      python experiments/run.py --set steps=40 --set seed=0,1,2

      python experiments/run.py --set timescale=1,5,10

      python experiments/run.py experiments/sweeps/finite_answers.yaml --set judge.matrix=mine.csv
    """

    sweep: tyro.conf.Positional[Path] = HERE / "sweeps" / "quickstart.yaml"
    """The sweep file; those of the project are in experiments/sweeps."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE[,VALUE...]")] = ()
    """Override a key of the sweep, as often as needed; several values make several runs. A key is a path
    (train.steps), an algorithm's field (rloo.tau), or the last part alone where it is clear (steps)."""
    out: Path = Path("runs")
    """Where run directories and the report go."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 1 after an error (one line on standard error), 130 when interrupted."""
    help_text = inspect.cleandoc(Command.__doc__ or "")  # tyro's own reading of it drops the examples
    command = tyro.cli(Command, args=arguments, prog="python experiments/run.py", description=help_text)
    quiet()
    keep_memory()
    try:
        embedded.refuse_foreign_llm()
        sweeps = load_sweep(command.sweep, command.set)
        if isinstance(sweeps[0], FiniteAnswersSweep):
            games = [sweep for sweep in sweeps if isinstance(sweep, FiniteAnswersSweep)]
            print(json.dumps(finite_answers.run_sweep(games, command.out), indent=2))
        else:
            models = [sweep for sweep in sweeps if isinstance(sweep, LanguageModelSweep)]
            path = language_models.run_sweep(models, command.out)
            print(report.headline(path))
    except SLHFError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:  # an output folder that cannot be written, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system after every step.

    Training allocates and frees the same few hundred megabytes again and again; faulting them in anew costs
    about a quarter of an update on a virtual machine.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def quiet() -> None:
    """Silence progress bars and deprecation chatter of libraries, which would tear our own bars apart."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


if __name__ == "__main__":
    sys.exit(main())
