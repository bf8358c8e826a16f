"""Degenerate games: a certified answer or a clear error from every solver, in 10,000 generated cases."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from slhf.errors import SLHFError
from tabular import PreferenceMatrix, solve_nlhf, solve_rlhf, solve_slhf
from tabular.lotteries import TOLERANCE as LOTTERY_TOLERANCE
from tabular.policies import TIE_TOLERANCE
from tabular.rlhf import TOLERANCE as FIT_TOLERANCE
from tests.tabular.strategies import complete

pytestmark = pytest.mark.numeric

TAUS = [1e-6, 1e-4, 0.01, 1.0, 100.0, 1e6]
EPS = np.finfo(float).eps


def halves(rng, shape):
    return np.full(shape, 0.5)


def coarse(rng, shape):
    """Ties everywhere, zeros and ones."""
    return complete(rng.integers(0, 3, size=shape) / 2)


def zero_one(rng, shape):
    return complete(rng.integers(0, 2, size=shape).astype(float))


def near_ties(rng, shape):
    return complete(0.5 + rng.integers(-3, 4, size=shape) * 1e-12)


def mixed_ties(rng, shape):
    """Preferences of one quarter, moved by about 1e-12."""
    return complete(np.clip(rng.integers(0, 5, size=shape) / 4 + rng.normal(size=shape) * 1e-12, 0, 1))


def separable(rng, shape):
    """Bradley-Terry with rewards up to 40 apart: probabilities down to 1e-18."""
    return PreferenceMatrix.bradley_terry(rng.uniform(0, 40, size=shape[:-1])).p


KINDS = [halves, coarse, zero_one, near_ties, mixed_ties, separable]


def tiny_mass(rng, shape):
    """A reference that gives 1e-300 to some actions (not to all)."""
    weights = np.where(rng.uniform(size=shape) < 0.3, 1e-300, rng.uniform(0.1, 1, size=shape))
    weights[..., 0] = 1
    return weights / weights.sum(-1, keepdims=True)


def batches(kind, count=40):
    """Games of n = 1 to 8, ``count`` of each: for every kind 240."""
    rng = np.random.default_rng(KINDS.index(kind))
    for n in (1, 2, 3, 4, 5, 8):
        yield rng, PreferenceMatrix(kind(rng, (count, n, n)))


def attempt(solve, *arguments):
    """The solution, or None where a clear error of this project refuses; no warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return solve(*arguments)
        except SLHFError:
            return None


def certified(solution, gap, residual=None):
    certificate = solution.certificate
    assert np.all(np.abs(certificate.gap) <= gap), np.max(np.abs(certificate.gap))
    assert np.all(np.abs(certificate.residual) <= (gap if residual is None else residual)), np.max(certificate.residual)
    assert np.all(np.isfinite(solution.policy))
    np.testing.assert_allclose(solution.policy.sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_slhf(kind):
    """2880 pairs of a game and its temperatures for each kind; the closed form needs no error."""
    for rng, P in batches(kind):
        references = tiny_mass(rng, P.p.shape[:-1]), tiny_mass(rng, P.p.shape)
        for tau in TAUS:
            for arguments in ((tau, tau), (tau, 0), (0, tau), (tau, tau, *references)):
                solution = attempt(solve_slhf, P, *arguments)
                assert solution is not None
                tied = 2 * TIE_TOLERANCE if 0 in arguments[:2] else 0  # what counts as a tie at temperature 0
                certified(solution, tied + 20 * EPS * (1 + 1000 * max(arguments[:2])))
        certified(attempt(solve_slhf, P, 0, 0), 2 * TIE_TOLERANCE + 20 * EPS)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_nash(kind):
    for rng, P in batches(kind, 10):
        for tau in TAUS:
            for reference in (None, tiny_mass(rng, P.p.shape[:-1])):
                solution = attempt(solve_nlhf, P, tau, reference)
                if solution is not None:  # documented: the L1 distance sqrt(2 f / tau) <= 1e-9 + 1e-14 / tau
                    certified(solution, tau * (1e-9 + 1e-14 / tau) ** 2 / 2 + 1e-300, np.inf)


@pytest.mark.parametrize("selection", ["any", "max_entropy", "exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_lotteries(kind, selection):
    """Game by game, so that one refusal does not hide the rest."""
    for _, P in batches(kind, 12):
        for p in P.p:
            solution = attempt(solve_nlhf, PreferenceMatrix(p), 0, None, selection)
            if solution is not None:
                certified(solution, LOTTERY_TOLERANCE * np.abs(p - 0.5).max())


@pytest.mark.parametrize("kind", KINDS)
def test_rlhf(kind):
    for rng, P in batches(kind, 20):
        for tau in (0.0, 1e-6, 1.0, 1e6):
            reference = tiny_mass(rng, P.p.shape[:-1]) if tau else None
            for l2 in (0.0, 1e-6, 1.0):
                solution = attempt(solve_rlhf, P, tau, reference, None, l2)
                if solution is not None:
                    certified(solution, np.inf, FIT_TOLERANCE)


def test_large():
    """n = 4000: the closed form, in blocks; ties everywhere."""
    rng = np.random.default_rng(0)
    P = PreferenceMatrix(coarse(rng, (4000, 4000)))
    for tau in (0, 1e-6, 1e6):
        certified(attempt(solve_slhf, P, tau, tau), 2 * TIE_TOLERANCE + 20 * EPS * (1 + 1000 * tau))
