"""How this project's processes behave, whether a person or a job scheduler started them."""

from __future__ import annotations

import ctypes
import inspect
import platform
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
import tyro

from slhf.errors import SLHFError

C = TypeVar("C")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt(3)."""


def command(
    kind: type[C], script: str, work: Callable[[C], None], arguments: list[str] | None, interrupted: str
) -> int:
    """Read a script's arguments into ``kind`` and do its work.

    Returns:
        The exit status: 0; 1 after an error, which is one line on standard error; 130 when interrupted, and then
        ``interrupted`` says what is left to do.
    """
    help_text = inspect.cleandoc(kind.__doc__ or "")  # tyro's own reading of it drops the examples
    try:
        work(tyro.cli(kind, args=arguments, prog=f"python experiments/{script}", description=help_text))
    except (SLHFError, OSError) as error:  # OSError: an output folder that cannot be written, a full disk
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0


def prepare() -> None:
    """Quiet libraries and keep memory; the first thing a process does."""
    quiet()
    keep_memory()


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
