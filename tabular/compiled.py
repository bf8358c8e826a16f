"""Loops that numba compiles, where numba is installed: for numpy's arrays, once that pays.

Every solver is written once for arrays of any library, a whole batch at a time. For small games most of its time goes
into calling array functions, which loops over numbers save: the modules ``tabular.*_loops``. But importing numba takes
about half a second, and the first use on a machine compiles for some seconds (numba keeps the result). So they are
loaded once the games solved without them have taken about that long, and one small game never waits for them.
Both ways give the same answer, to rounding.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

PRICE = 0.5
"""Seconds that loading costs."""


class Loops:
    """The compiled loops of one solver: the module ``tabular.NAME``, imported late."""

    spent = 0.0
    """Seconds, as estimated, that all solvers together have gone without compiled loops."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: ModuleType | None = None

    def for_games(self, p: Any, seconds: float) -> ModuleType | None:
        """The loops, if they can and should solve ``p``.

        Args:
            p: an array; only numpy's have loops.
            seconds: about how long solving it takes without.
        """
        if type(p) is not np.ndarray:
            return None
        if self.module is None:
            Loops.spent += seconds
            if Loops.spent < PRICE:
                return None
            self.load()
        return self.module

    def load(self) -> None:
        """Import the loops now, unless numba is not installed."""
        if INSTALLED:
            self.module = importlib.import_module(f"tabular.{self.name}")


INSTALLED = find_spec("numba") is not None
SLHF, NASH, LOTTERIES = Loops("stackelberg_loops"), Loops("nash_loops"), Loops("lottery_loops")


def load() -> None:
    """Load all loops now: for programs that would rather wait at the start."""
    for loops in (SLHF, NASH, LOTTERIES):
        loops.load()
