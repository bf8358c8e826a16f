"""How this project's processes behave, whether a person or a job scheduler started them."""

from __future__ import annotations

import ctypes
import inspect
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import tyro

from slhf.errors import SLHFError

C = TypeVar("C")

SCRIPT = re.compile(r"python experiments/\w+\.py")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt(3)."""


def command(kind: type[C], prog: str, work: Callable[[C], None], arguments: list[str] | None, interrupted: str) -> int:
    """Read a command's arguments into ``kind`` and do its work.

    Args:
        kind: a dataclass, whose docstring is the help. Its examples start with ``python experiments/SCRIPT.py``, and
            are shown as ``prog`` was typed.
        prog: what was typed: that, or ``slhf NAME``.
        work: what to do.
        arguments: those of the command line if None.
        interrupted: what is left to do after Ctrl-C.

    Returns:
        The exit status: 0; 1 after an error, which is one line on standard error; 130 when interrupted.
    """
    help_text = inspect.cleandoc(kind.__doc__ or "")  # tyro's own reading of it drops the examples
    help_text = SCRIPT.sub(prog, help_text) if SCRIPT.fullmatch(prog) is None else help_text
    try:
        try:
            work(tyro.cli(kind, args=arguments, prog=prog, description=help_text))
        finally:
            _flush_output()
    except (SLHFError, OSError) as error:  # OSError: an output folder that cannot be written, a full disk
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0


def _flush_output() -> None:
    """Have written what was printed. What cannot be, on a full disk, is dropped, for Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def prepare() -> None:
    """Quiet libraries and keep memory; the first thing a process does."""
    quiet()
    keep_memory()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within this context torch computes with so many threads of the processor."""
    import torch  # not at the top: messages and help need none of it

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system after every step.

    Training on a CPU allocates and frees the same few hundred megabytes again and again; faulting them in anew costs
    about a quarter of an update on a virtual machine. Where a GPU computes, nothing would be used again: the process
    would hold on to all that a model took while it was loaded, 16 GB for 8 billion parameters.
    """
    if platform.libc_ver()[0] == "glibc" and not torch.cuda.is_available():
        libc = ctypes.CDLL(None)
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def quiet() -> None:
    """Silence progress bars and deprecation chatter of libraries, which would tear our own bars apart."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
