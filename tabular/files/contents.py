"""What a file is asked to be, and what it turns out to hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slhf.errors import InvalidParameter
from tabular.rankings import Unranked

Ties = Literal["half", "drop"]

FORMS = (
    "a square matrix of probabilities (or, with counts=True, of wins; with percent=True, of percentages), comparisons "
    "with columns winner, loser and perhaps count, or battles with columns model_a, model_b, winner"
)
"""What tables are read, for errors."""


@dataclass(frozen=True)
class Options:
    """How to read a file; ``tabular.PreferenceMatrix.load`` says what each means."""

    unranked: Unranked | None = None
    ties: Ties | None = None
    counts: bool = False
    percent: bool = False
    symmetrise: bool = False

    def allow(self, file: Path, what: str, *names: str) -> None:
        """Refuse the options that are given and not among ``names``: the file holds ``what``.

        Raises:
            InvalidParameter: names the option.
        """
        for name, value in vars(self).items():
            if value and name not in names:
                given = f'{name}="{value}"' if isinstance(value, str) else f"{name}=True"
                raise InvalidParameter(f"{given} has no meaning for {file}, which holds {what}; drop it.")


@dataclass(frozen=True)
class Matrix:
    """Numbers between alternatives.

    Attributes:
        kind: whether they are probabilities or how often the row beat the column.
        values: ``(..., n, n)``.
        labels: the n names, if the file gives any.
        notes: what was assumed, a sentence each.
    """

    kind: Literal["probabilities", "wins"]
    values: NDArray[np.float64]
    labels: list[str] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orders:
    """What voters prefer.

    Attributes:
        names: the alternatives.
        orders: each lists groups of tied names, best first.
        counts: how many voters hold each.
        notes: what was assumed, a sentence each.
    """

    names: list[str]
    orders: list[list[tuple[str, ...]]]
    counts: list[int]
    notes: tuple[str, ...] = ()
