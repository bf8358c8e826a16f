"""Whether a game has one maximal lottery, or which others it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabular.lotteries import TOLERANCE, essential_set
from tabular.policies import Array


@dataclass(frozen=True)
class Lotteries:
    """All maximal lotteries of one game.

    Attributes:
        unique: whether there is one only.
        played: ``(n,)``, True for the alternatives that some lottery plays.
        every_policy: whether every policy on those is a lottery.
    """

    unique: bool
    played: NDArray[np.bool_]
    every_policy: bool


def all_lotteries(margins: Array) -> Lotteries:
    """What the lotteries of the margins ``(n, n)`` of one game have in common.

    A lottery that plays the whole essential set E and loses strictly to all else lies inside the polytope of all
    lotteries (Tucker 1956). Near it only A_EE pi = 0 binds, so that the polytope has the dimension of the kernel of
    A_EE, less 1. Margins up to ``TOLERANCE`` of the largest are 0.

    Raises:
        NotConverged: the essential set cannot be told, see :func:`tabular.lotteries.essential_set`.
    """
    played = essential_set(margins)
    scale = np.abs(margins).max() or 1.0
    inside = margins[np.ix_(played, played)]
    nullity = len(inside) - np.linalg.matrix_rank(inside, tol=TOLERANCE * scale)
    return Lotteries(bool(nullity == 1), played, bool(np.all(margins[:, played] <= TOLERANCE * scale)))
