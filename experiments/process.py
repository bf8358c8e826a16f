"""How this project's processes behave, whether a person or a job scheduler started them."""

from __future__ import annotations

import ctypes
import platform
import warnings

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt(3)."""


def prepare() -> None:
    """Quiet libraries and keep memory; the first thing a process does."""
    quiet()
    keep_memory()


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
