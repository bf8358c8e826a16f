"""Compiled loops give the answers of the array functions, are loaded late, and can be missing."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose

from slhf.errors import InvalidReference
from tabular import PreferenceMatrix, compiled, solve_nlhf, solve_slhf
from tests.tabular.strategies import CONDORCET, examples, games, seeds, temperatures_or_zero
from tests.tabular.strategies import policies as random_policies

pytest.importorskip("numba")
ALL = (compiled.SLHF, compiled.NASH, compiled.LOTTERIES)
FIELDS = ("policy", "follower", "follower_value", "value", "follower_win_rate", "support")


def both(solve):
    """What ``solve()`` answers with loops and without."""
    compiled.load()
    with_loops = solve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "INSTALLED", False)
        for loops in ALL:
            patch.setattr(loops, "module", None)
        return with_loops, solve()


def assert_same_kind(loops, arrays, name):
    one, other = getattr(loops, name), getattr(arrays, name)
    assert np.shape(one) == np.shape(other)
    assert one.dtype == other.dtype


@examples(100)
@given(P=games(sizes=(1, 6)), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_slhf(P, tau_leader, tau_follower, seed):
    references = random_policies(P.p.shape[:-1], seed), random_policies(P.p.shape, seed + 1)
    for given_ in ((), references):
        loops, arrays = both(lambda given_=given_: solve_slhf(P, tau_leader, tau_follower, *given_))
        for name in FIELDS:
            assert_same_kind(loops, arrays, name)
            assert_allclose(getattr(loops, name), getattr(arrays, name), rtol=1e-10, atol=1e-13)
        for name in ("gap", "residual"):
            assert_same_kind(loops.certificate, arrays.certificate, name)
            wrong = np.abs(getattr(loops.certificate, name))
            assert np.all(wrong <= 1e-12 * (1 + tau_leader + tau_follower))


@examples(100)
@given(P=games(sizes=(1, 6)), tau=temperatures_or_zero, seed=seeds)
def test_nash(P, tau, seed):
    reference = None if tau == 0 else random_policies(P.p.shape[:-1], seed)
    loops, arrays = both(lambda: solve_nlhf(P, tau, reference))
    for name in ("policy", "value", "support"):
        assert_same_kind(loops, arrays, name)
        assert_allclose(getattr(loops, name), getattr(arrays, name), atol=1e-10)
    assert loops.certificate.method == arrays.certificate.method
    for name in ("gap", "residual", "iterations"):
        assert_same_kind(loops.certificate, arrays.certificate, name)
    assert_allclose(loops.certificate.residual, arrays.certificate.residual, atol=1e-12 * max(1, tau))


def test_errors_are_those_of_arrays():
    compiled.load()
    half = [0.0, 0.5, 0.5]  # gives nothing to A, the best action at temperature 0
    batch = PreferenceMatrix(np.stack([CONDORCET.p] * 2))
    with pytest.raises(InvalidReference, match="no probability to any optimal action"):
        solve_slhf(CONDORCET, 0, 0, half)
    with pytest.raises(InvalidReference, match=r"of game \(0,\)"):
        solve_slhf(batch, 0, 0, half)
    with pytest.raises(InvalidReference, match=r"leader_reference\(0,\) = 0"):
        solve_slhf(CONDORCET, 0.1, 0.1, half)
    with pytest.raises(InvalidReference, match=r"game needs \(3,\)"):
        solve_slhf(CONDORCET, leader_reference=[0.5, 0.5])


PROGRAM = """
import json, sys
{block}
import numpy as np
from tabular import PreferenceMatrix, compiled, solve_nlhf, solve_rlhf, solve_slhf
assert not any(name.startswith("numba") for name in sys.modules if sys.modules[name]), "imported too early"
margins = np.round(np.random.default_rng(0).uniform(-.5, .5, (3, 6, 6)), 1)
answers = []
margins = (margins - margins.swapaxes(1, 2)) / 2
for P in map(PreferenceMatrix.from_margins, [*margins, margins]):
    answers += [solve_slhf(P).policy, solve_slhf(P, 0, 0).policy, solve_nlhf(P).policy, solve_nlhf(P, .01).policy]
    answers += [solve_nlhf(P, selection="max_entropy").policy, solve_nlhf(P, selection="exact").policy]
    answers += [solve_rlhf(P).policy]
    {load}
print(json.dumps([a.tolist() for a in answers]), file=sys.stdout)
print(any(name == "numba" for name in sys.modules if sys.modules[name]), file=sys.stderr)
"""


def answers(**parts):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(**parts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr.strip() == "True"


def test_without_numba_the_answers_are_the_same():
    absent, loaded = answers(block='sys.modules["numba"] = None', load="compiled.load()")
    assert not loaded
    present, loaded = answers(block="", load="compiled.load()")
    assert loaded
    for one, other in zip(absent, present, strict=True):
        assert_allclose(one, other, atol=1e-10)


def test_a_few_small_games_do_not_wait_for_numba():
    _, loaded = answers(block="", load="")
    assert not loaded


def test_many_small_games_load_it(monkeypatch):
    monkeypatch.setattr(compiled.SLHF, "module", None)
    monkeypatch.setattr(compiled.Loops, "spent", compiled.PRICE - 1e-3)
    for _ in range(5):
        solve_slhf(CONDORCET)
    assert compiled.SLHF.module is not None
