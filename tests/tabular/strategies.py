"""Random games and references for hypothesis, and the settings they run with."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tabular import PreferenceMatrix

CONDORCET = PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"], [0.4, 0.35, 0.25])
"""The running example: 40, 35 and 25 % of the annotators hold the three rotations of A > B > C."""


def examples(count: int = 30) -> settings:
    """The same ``count`` examples in every run."""
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


def _uniform(rng, shape, n):
    return rng.uniform(size=(*shape, n, n))


def _coarse(rng, shape, n):
    """Many exact ties, zeros and ones."""
    return rng.integers(0, 5, size=(*shape, n, n)) / 4


def _near_tie(rng, shape, n):
    return 0.5 + rng.uniform(-0.4, 0.4, size=(*shape, n, n)) * 10.0 ** rng.integers(-4, 1, size=(*shape, n, n))


def _cyclic(rng, shape, n):
    """i beats the next n // 2 alternatives, by a random margin."""
    ahead = (np.arange(n) - np.arange(n)[:, None]) % n <= n // 2
    return np.where(ahead, 1, -1) * rng.uniform(0.05, 0.5, size=(*shape, n, n)) + 0.5


def _mallows(rng, shape, n):
    """Twenty noisy rankings of a common order: Gumbel noise on its positions."""
    positions = np.arange(n) + 2 * rng.gumbel(size=(*shape, 20, n))
    return (positions[..., :, None] < positions[..., None, :]).mean(-3)


def _clones(rng, shape, n):
    """Three alternatives, the others their copies."""
    p = complete(_uniform(rng, shape, 3))
    original = np.arange(n) % 3
    return p[..., original[:, None], original]


KINDS = {"uniform": _uniform, "coarse": _coarse, "near tie": _near_tie, "cyclic": _cyclic, "mallows": _mallows}
KINDS["clones"] = _clones


def complete(upper):
    """The preference matrix with these entries above the diagonal."""
    above = np.triu(upper, 1)
    below = np.swapaxes(np.triu(1 - upper, 1), -1, -2)
    return above + below + np.eye(upper.shape[-1]) / 2


@st.composite
def games(draw, sizes=(2, 6), batches=((), (2,), (2, 1)), kinds=tuple(KINDS)):
    """A PreferenceMatrix of one of ``kinds``."""
    n, shape = draw(st.integers(*sizes)), draw(st.sampled_from(batches))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return PreferenceMatrix(complete(KINDS[draw(st.sampled_from(kinds))](rng, shape, n)))


def single_games(**options):
    """One game, no batch axis."""
    return games(batches=((),), **options)


def policies(shape, seed, floor=1e-3):
    """Random distributions along the last axis."""
    p = np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1]) + floor
    return p / p.sum(-1, keepdims=True)


seeds = st.integers(0, 2**32 - 1)
temperatures = st.sampled_from([1.0, 0.3, 0.1, 0.01])
temperatures_or_zero = st.sampled_from([1.0, 0.3, 0.1, 0.01, 0.0])


def subsets(n):
    """Every non-empty subset of range(n), smallest first."""
    return (set(chosen) for size in range(1, n + 1) for chosen in combinations(range(n), size))


def smith_set(p):
    """The smallest set whose members beat every outsider, by brute force."""
    n = len(p)
    return next(s for s in subsets(n) if all(p[i, j] > 0.5 for i in s for j in set(range(n)) - s))
