"""Random games of known structure. Everything is drawn from the generator that is passed in.

Sizes are checked; ``shape`` is a batch shape. Rankings are arrays of alternatives, best first.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from slhf.errors import InvalidParameter
from tabular.arrays import Array
from tabular.preferences import PreferenceMatrix
from tabular.profiles import Profile


def uniform(rng: Generator, n: int, shape: tuple[int, ...] = ()) -> PreferenceMatrix:
    """Every p(i > j) uniform on [0, 1], independently."""
    return _from_upper(rng.uniform(-0.5, 0.5, size=(*shape, _size(n), n)))


def near_ties(rng: Generator, n: int, shape: tuple[int, ...] = (), width: float = 1e-3) -> PreferenceMatrix:
    """Every p(i > j) uniform within ``width`` (at most 1/2) of 1/2."""
    _within(width, 0, 0.5, "width")
    return _from_upper(rng.uniform(-width, width, size=(*shape, _size(n), n)))


def cycles(rng: Generator, n: int, shape: tuple[int, ...] = (), least: float = 0.05) -> PreferenceMatrix:
    """i beats the next (n - 1) // 2 alternatives around a circle, by margins uniform in [least, 1/2].

    For even n the opposite pairs tie. From n = 3 on there is no Condorcet winner.
    """
    _within(least, 0, 0.5, "least")
    ahead = (np.arange(_size(n)) - np.arange(n)[:, None]) % n
    direction = np.where(ahead == 0, 0, np.sign(n - 2 * ahead))
    return _from_upper(direction * rng.uniform(least, 0.5, size=(*shape, n, n)))


def clones(rng: Generator, n: int, shape: tuple[int, ...] = (), originals: int = 3) -> PreferenceMatrix:
    """A uniform game of ``originals`` alternatives; alternative i is a copy of i % originals and ties with it."""
    if not 1 <= originals <= _size(n):
        raise InvalidParameter(f"originals = {originals}: must be between 1 and n = {n}.")
    original = np.arange(n) % originals
    return PreferenceMatrix(uniform(rng, originals, shape).p[..., original[:, None], original])


def mallows_rankings(rng: Generator, n: int, voters: int, dispersion: float) -> NDArray[np.int_]:
    """``(voters, n)`` rankings with probability proportional to dispersion^(disagreeing pairs with 0 > 1 > ...).

    (Mallows 1957.) ``dispersion`` 0 repeats 0 > 1 > ... and 1 makes all rankings equally likely.
    Drawn by repeated insertion (Doignon, Pekec and Regenwetter 2004): alternative i passes k of those before it
    with probability proportional to dispersion^k.
    """
    _within(dispersion, 0, 1, "dispersion")
    rankings = np.zeros((voters, _size(n)), dtype=int)
    for i in range(1, n):
        weight = float(dispersion) ** np.arange(i + 1)
        place = i - rng.choice(i + 1, size=voters, p=weight / weight.sum())
        column = np.arange(i + 1)
        moved = np.where(column[None] > place[:, None], column - 1, column)  # shift those behind by one
        rankings[:, : i + 1] = np.take_along_axis(rankings[:, : i + 1], moved, axis=1)
        rankings[np.arange(voters), place] = i
    return rankings


def mallows(rng: Generator, n: int, voters: int = 20, dispersion: float = 0.7) -> Profile:
    """One voter each for ``voters`` :func:`mallows_rankings` around a random order."""
    order = rng.permutation(_size(n))
    return _profile(order[mallows_rankings(rng, n, voters, dispersion)], np.ones(voters))


def annotator_mixture(
    rng: Generator, n: int, types: int = 3, concentration: float = 1.0, dispersion: float = 0.0, voters: int = 20
) -> Profile:
    """``types`` kinds of annotators, each with an order of its own, in shares drawn from a Dirichlet distribution.

    Args:
        rng: where all draws come from.
        n: the number of alternatives.
        types: how many kinds.
        concentration: of the Dirichlet distribution; large makes the shares equal.
        dispersion: how much the annotators of one kind differ (:func:`mallows_rankings`); 0 is not at all.
        voters: how many annotators stand for each kind when they differ.

    Returns:
        A profile with the kinds in turn (one ranking each, or ``voters``); its weights sum to 1.
    """
    if types < 1 or not concentration > 0:
        raise InvalidParameter(f"types = {types} and concentration = {concentration} must be positive.")
    shares = rng.dirichlet(np.full(types, concentration))
    each = 1 if dispersion == 0 else voters
    kinds = [rng.permutation(_size(n))[mallows_rankings(rng, n, each, dispersion)] for _ in range(types)]
    return _profile(np.concatenate(kinds), np.repeat(shares / each, each))


def _profile(rankings: NDArray[np.int_], weights: Array) -> Profile:
    n = rankings.shape[-1]
    return Profile([[str(i) for i in ranking] for ranking in rankings], weights, labels=[str(i) for i in range(n)])


def _from_upper(margins: Array) -> PreferenceMatrix:
    """The game whose margins above the diagonal are these."""
    above = np.triu(margins, 1)
    return PreferenceMatrix.from_margins(above - np.swapaxes(above, -1, -2))


def _size(n: int) -> int:
    if n < 1:
        raise InvalidParameter(f"n = {n}: a game needs at least one alternative.")
    return n


def _within(value: float, low: float, high: float, name: str) -> None:
    if not low <= value <= high:
        raise InvalidParameter(f"{name} = {value}: must be between {low} and {high}.")
