"""Random games have the structure they promise, and depend on nothing but the generator."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from slhf.errors import InvalidParameter
from tabular import generators
from tabular import social_choice as sc

GAMES = (generators.uniform, generators.near_ties, generators.cycles, generators.clones)
PROFILES = (generators.mallows, generators.annotator_mixture)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("game", GAMES)
def test_games_are_seeded_and_batched(game):
    P = game(rng(), 5, (2, 3))
    assert P.p.shape == (2, 3, 5, 5)
    assert_array_equal(P.p, game(rng(), 5, (2, 3)).p)
    assert (P.p != game(rng(1), 5, (2, 3)).p).any()
    assert len(np.unique(P.p[..., 0, 1])) == 6  # the games of a batch differ


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_are_seeded(profile):
    P = profile(rng(), 5)
    assert P.labels == tuple("01234")
    assert_array_equal(P.preferences(missing="half").p, profile(rng(), 5).preferences(missing="half").p)
    assert P.rankings != profile(rng(1), 5).rankings


def test_uniform_fills_the_interval():
    p = generators.uniform(rng(), 2, (4000,)).p[:, 0, 1]
    assert_allclose(np.quantile(p, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)


def test_near_ties_are_near():
    margins = np.abs(generators.near_ties(rng(), 6, (50,), width=0.01).margins)
    assert 0.0099 < margins.max() <= 0.01


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_cycles_have_no_winner(n):
    P = generators.cycles(rng(), n, (20,), least=0.1)
    assert sc.smith_set(P).all()
    assert not sc.condorcet_winner(P).any()
    ahead = (n - 1) // 2
    assert_array_equal(sc.majority(P).sum(-1), np.full((20, n), ahead))
    assert P.margins[sc.majority(P)].min() >= 0.1
    assert sc.majority(P)[:, 0, 1 : ahead + 1].all()


def test_clones_tie_and_have_the_same_duels():
    P = generators.clones(rng(), 5, originals=3)
    assert_array_equal(P.p[0], P.p[3])
    assert_array_equal(P.p[1], P.p[4])
    assert P.p[0, 3] == 0.5
    assert (P.p[0] != P.p[1]).any()


@pytest.mark.parametrize("dispersion", [0.0, 0.4, 0.8, 1.0])
def test_mallows_has_the_known_pairwise_probabilities(dispersion):
    """p(i > j) = h(d + 1) - h(d) for d = j - i, h(k) = k / (1 - dispersion^k) (Mallows 1957)."""
    n, count = 5, 20_000
    rankings = generators.mallows_rankings(rng(), n, count, dispersion)
    assert_array_equal(np.sort(rankings, axis=1), np.tile(np.arange(n), (count, 1)))
    position = np.argsort(rankings, axis=1)
    for i, j in combinations(range(n), 2):
        expected = 0.5
        if dispersion < 1:
            h = [k / (1 - dispersion**k) if k else 0 for k in range(n + 2)]
            expected = h[j - i + 1] - h[j - i]
        assert np.mean(position[:, i] < position[:, j]) == pytest.approx(expected, abs=0.02)


def test_annotators_of_one_kind_agree_unless_dispersed():
    pure = generators.annotator_mixture(rng(), 4, types=3, concentration=5)
    assert len(pure.rankings) == 3
    assert pure.weights.sum() == pytest.approx(1)
    mixed = generators.annotator_mixture(rng(), 4, types=3, dispersion=0.5, voters=7)
    assert len(mixed.rankings) == 21
    assert mixed.weights.sum() == pytest.approx(1)
    assert len(set(mixed.rankings[:7])) > 1
    assert len(set(mixed.weights[:7])) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generators.uniform(rng(), 0), "n = 0"),
        (lambda: generators.near_ties(rng(), 3, width=0.6), "width = 0.6"),
        (lambda: generators.cycles(rng(), 3, least=-1), "least = -1"),
        (lambda: generators.clones(rng(), 3, originals=4), "originals = 4"),
        (lambda: generators.mallows_rankings(rng(), 3, 5, 1.1), "dispersion = 1.1"),
        (lambda: generators.annotator_mixture(rng(), 3, types=0), "types = 0"),
        (lambda: generators.annotator_mixture(rng(), 3, concentration=0), "concentration = 0"),
    ],
)
def test_bad_sizes_are_refused(call, message):
    with pytest.raises(InvalidParameter, match=message):
        call()
