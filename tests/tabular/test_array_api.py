"""The closed form on torch tensors: the same answers, of the same kind, and clear refusals elsewhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from slhf.algorithms import StackelbergGDA
from slhf.errors import (
    DisconnectedComparisons,
    InvalidParameter,
    InvalidPreferences,
    InvalidReference,
    MissingPair,
    SLHFError,
)
from tabular import PreferenceMatrix, duality_gap, policies, social_choice, solve_nlhf, solve_rlhf, solve_slhf
from tabular.dynamics import run
from tabular.profiles import Profile
from tabular.refinement import Refinement
from tabular.sensitivity import slhf_sensitivity
from tests.tabular.strategies import CONDORCET, examples, games, seeds, temperatures, temperatures_or_zero
from tests.tabular.strategies import policies as random_policies

pytestmark = pytest.mark.numeric

FIELDS = ("policy", "log_policy", "follower", "log_follower", "follower_value", "value", "follower_win_rate", "support")


def assert_same(tensor, array, dtype=torch.float64):
    """Equal, and in the same kind and on the same device as the tensors that went in."""
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == dtype
    assert tensor.device == torch.device("cpu")
    assert tuple(tensor.shape) == np.shape(array)
    assert_allclose(tensor.numpy(), array, rtol=1e-12, atol=1e-13)


def references(P, seed):
    return random_policies(P.p.shape[:-1], seed), random_policies(P.p.shape, seed + 1)


@examples(60)
@given(P=games(sizes=(1, 6)), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_solutions_agree(P, tau_leader, tau_follower, seed):
    arrays = references(P, seed)
    tensors, before = ([torch.tensor(reference) for reference in arrays] for _ in range(2))
    on_torch = PreferenceMatrix(torch.tensor(P.p), P.labels)
    for of_numpy, of_torch in (((), ()), (arrays, tensors)):
        expected = solve_slhf(P, tau_leader, tau_follower, *of_numpy)
        found = solve_slhf(on_torch, tau_leader, tau_follower, *of_torch)
        for name in FIELDS:
            dtype = torch.bool if name == "support" else torch.float64
            assert_same(getattr(found, name), getattr(expected, name), dtype)
        assert_same(found.certificate.gap, expected.certificate.gap)
        assert_same(found.certificate.residual, expected.certificate.residual)
        assert found.certificate.worst() < 1e-11
        assert np.shape(found.certificate.to_json()["gap"]) == P.batch_shape
    for now, then in zip(tensors, before, strict=True):
        assert_array_equal(now, then)


@examples(60)
@given(P=games(sizes=(1, 6)), tau=temperatures_or_zero, seed=seeds)
def test_nash_solutions_agree(P, tau, seed):
    """Cyclic, cloned and nearly tied games too, in which there can be many lotteries: both must choose the same."""
    reference = references(P, seed)[0]
    on_torch = PreferenceMatrix(torch.tensor(P.p))
    for of_numpy, of_torch in ((), ()), ((reference,), (torch.tensor(reference),)):
        if tau == 0 and of_numpy:
            continue
        expected, found = solve_nlhf(P, tau, *of_numpy), solve_nlhf(on_torch, tau, *of_torch)
        for name in ("policy", "value", "support"):
            one, other = getattr(found, name), getattr(expected, name)
            assert isinstance(one, torch.Tensor)
            assert tuple(one.shape) == np.shape(other)
            assert_allclose(one.numpy(), other, atol=1e-9)
        for certificate in (found.certificate, expected.certificate):
            assert certificate.method == expected.certificate.method
            assert np.shape(certificate.gap) == np.shape(certificate.iterations) == P.batch_shape
            assert certificate.worst() < 1e-12 * max(1, tau)


def test_a_large_batch_of_tensors_is_solved():
    """torch's own solver fails on batches of this size in main memory."""
    P = PreferenceMatrix.from_margins(torch.tensor(games_of(200, 20)))
    found, expected = solve_nlhf(P, 0.01), solve_nlhf(P.numpy(), 0.01)
    assert_allclose(found.policy.numpy(), expected.policy, atol=1e-9)
    assert_allclose(solve_rlhf(P).reward.numpy(), solve_rlhf(P.numpy()).reward, atol=1e-9)


def games_of(n, batch):
    margins = np.random.default_rng(n).uniform(-0.5, 0.5, (batch, n, n))
    return (margins - np.swapaxes(margins, -1, -2)) / 2


@examples(40)
@given(P=games(), tau=temperatures_or_zero, l2=st.sampled_from([0.1, 3.0]), seed=seeds)
def test_fits_agree(P, tau, l2, seed):
    weights = np.random.default_rng(seed).integers(1, 9, P.p.shape)
    weights = (weights + np.swapaxes(weights, -1, -2)).astype(float)
    for given_ in (None, weights):
        tensor = None if given_ is None else torch.tensor(given_)
        expected = solve_rlhf(P, tau, pair_weights=given_, l2=l2)
        found = solve_rlhf(PreferenceMatrix(torch.tensor(P.p)), tau, pair_weights=tensor, l2=l2)
        for name in ("reward", "policy", "value"):
            assert isinstance(getattr(found, name), torch.Tensor)
            assert_allclose(getattr(found, name).numpy(), getattr(expected, name), atol=1e-9)
        assert found.certificate.worst() < 1e-12


def test_solvers_refuse_bad_tensors_as_they_do_arrays():
    P = PreferenceMatrix(torch.tensor(CONDORCET.p))
    with pytest.raises(InvalidReference, match=r"reference\(2,\) = 0"):
        solve_nlhf(P, 0.1, torch.tensor([0.5, 0.5, 0]))
    with pytest.raises(InvalidReference, match="it is numpy where the preferences are torch on cpu"):
        solve_nlhf(P, 0.1, np.full(3, 1 / 3))
    with pytest.raises(InvalidParameter, match="pair_weights must broadcast"):
        solve_rlhf(P, pair_weights=torch.ones(7))
    with pytest.raises(InvalidParameter, match="symmetric"):
        solve_rlhf(P, pair_weights=torch.tensor([[0.0, 1, 2], [1, 0, 1], [1, 1, 0]]))
    won = PreferenceMatrix(torch.tensor([[0.5, 1], [0, 0.5]]))
    with pytest.raises(DisconnectedComparisons, match=r"Groups: 1 \| 0|Groups: 0 \| 1"):
        solve_rlhf(won)


@examples()
@given(P=games(), tau_leader=temperatures_or_zero, tau_follower=temperatures_or_zero, seed=seeds)
def test_gaps_agree(P, tau_leader, tau_follower, seed):
    refs, pair = references(P, seed), references(P, seed + 2)
    expected = duality_gap(P, *pair, tau_leader, tau_follower, *refs)
    tensors = [torch.tensor(values) for values in (*pair, *refs)]
    found = duality_gap(PreferenceMatrix(torch.tensor(P.p)), *tensors[:2], tau_leader, tau_follower, *tensors[2:])
    assert_same(found, expected)


@examples()
@given(P=games(), tau=temperatures, seed=seeds)
def test_kernels_agree(P, tau, seed):
    a, b = references(P, seed)[0], references(P, seed + 5)[0]
    a[..., 0] = 0
    pairs = [(policies.log_of(a), policies.log_of(b))]
    x, y = pairs[0]
    tx, ty = torch.tensor(x), torch.tensor(y)
    assert_same(policies.log_ratio(tx, ty), policies.log_ratio(x, y))
    assert_same(policies.kl(tx, ty), policies.kl(x, y))
    assert_same(policies.total_variation(torch.tensor(a), torch.tensor(b)), policies.total_variation(a, b))
    for temperature in (tau, 0.0):
        assert_same(policies.best_response(tx.exp(), ty, temperature), policies.best_response(a, y, temperature))
        value = policies.best_response_value(torch.tensor(a), ty, temperature)
        assert_same(value, policies.best_response_value(a, y, temperature))


@examples()
@given(P=games(), seed=seeds)
def test_constructors_agree(P, seed):
    counts = 40 * P.p * (1 - np.eye(P.n))
    reward = np.random.default_rng(seed).normal(size=P.p.shape[:-1]) * 100
    for make, argument in (
        (PreferenceMatrix, P.p),
        (PreferenceMatrix.from_margins, P.margins),
        (PreferenceMatrix.from_counts, counts),
        (PreferenceMatrix.bradley_terry, reward),
    ):
        expected, found = make(argument), make(torch.tensor(argument))
        assert_same(found.p, expected.p)
        assert_same(found.margins, expected.margins)
        assert_same(found.prefer(found.p[..., 0, :]), expected.prefer(expected.p[..., 0, :]))
        assert found.batch_shape == expected.batch_shape
        assert_array_equal(found.numpy().p, found.p.numpy())
        assert found.numpy().labels == found.labels


def test_tensors_are_copied_and_left_alone():
    source, reference = torch.tensor(CONDORCET.p), torch.full((3,), 1 / 3, dtype=torch.float64)
    P = PreferenceMatrix(source)
    solve_slhf(P, 0.1, 0.1, reference, reference)
    assert_array_equal(P.p, CONDORCET.p)
    assert_array_equal(reference, np.full(3, 1 / 3))
    source[0, 1] = 7
    assert P.p[0, 1] == CONDORCET.p[0, 1]
    assert PreferenceMatrix(torch.tensor([[0.5, 0.25], [0.75, 0.5]], dtype=torch.float32)).p.dtype == torch.float64


def test_bad_tensors_are_refused_with_their_place():
    bad = torch.tensor(np.stack([CONDORCET.p] * 2))
    bad[1, 1, 2] = 0.8
    with pytest.raises(InvalidPreferences, match=r"Game \(1,\), entry \(B, C\) = 0.8: .*0.25 .* sum to 1"):
        PreferenceMatrix(bad, "ABC")
    bad[0, 0, 2] = torch.nan
    with pytest.raises(InvalidPreferences, match=r"Game \(0,\), entry \(A, C\) = nan: .* finite"):
        PreferenceMatrix(bad, "ABC")
    with pytest.raises(MissingPair, match=r"\(0, 1\)"):
        _ = PreferenceMatrix.from_counts(torch.zeros(2, 2)).p
    with pytest.raises(InvalidPreferences, match="autograd"):
        PreferenceMatrix(torch.full((1, 1), 0.5, requires_grad=True))
    with pytest.raises(InvalidReference, match=r"leader_reference\(2,\) = 0"):
        solve_slhf(PreferenceMatrix(torch.tensor(CONDORCET.p)), leader_reference=[0.5, 0.5, 0])


def test_kinds_of_arrays_are_not_mixed_in_silence():
    reference = np.full(3, 1 / 3)
    with pytest.raises(InvalidReference, match="it is numpy where the preferences are torch on cpu"):
        solve_slhf(PreferenceMatrix(torch.tensor(CONDORCET.p)), leader_reference=reference)
    with pytest.raises(InvalidReference, match="it is torch on cpu where the preferences are numpy"):
        solve_slhf(CONDORCET, leader_reference=torch.tensor(reference))


@pytest.mark.parametrize(
    "use",
    [
        lambda a: PreferenceMatrix.from_rankings(["ABC", "BCA", "CAB"], a),
        lambda a: Profile(["ABC", "BCA", "CAB"], a),
        lambda a: solve_rlhf(CONDORCET, pair_weights=a),
        lambda a: solve_nlhf(CONDORCET, 0.1, a / 3),
        lambda a: Refinement.create(a / 3, np.eye(3)),
        lambda a: Refinement.create([1, 0, 0], a / 3),
        lambda a: Refinement.resampling(a / 3),
        lambda a: slhf_sensitivity(CONDORCET).policy.along(0 * a[:, None] * a),
    ],
)
def test_tensors_text_and_complex_numbers_are_not_converted_in_silence(use):
    use(np.ones(3))
    for values, said in ((torch.ones(3), "torch on cpu"), (np.ones(3) + 0j, "complex")):
        with pytest.raises(SLHFError, match=said):
            use(values)


def test_text_is_no_number():
    with pytest.raises(InvalidPreferences, match="text, not real numbers"):
        PreferenceMatrix([["0.5", 0.4], [0.6, 0.5]])
    with pytest.raises(InvalidPreferences, match="complex numbers"):
        PreferenceMatrix(CONDORCET.p + 1j)


def test_float32_is_named_where_it_is_too_coarse():
    with pytest.raises(InvalidPreferences, match=r"rounding, perhaps in float32, make P\[j, i\] of 1 - P"):
        PreferenceMatrix(CONDORCET.p.astype(np.float32))
    with pytest.raises(InvalidReference, match="normalise it, in float64"):
        solve_slhf(CONDORCET, leader_reference=np.array([0.15, 0.25, 0.6], np.float32))


@pytest.mark.parametrize(
    "use",
    [
        lambda P: solve_nlhf(P, selection="exact"),
        lambda P: solve_nlhf(P, selection="max_entropy"),
        lambda P: run(StackelbergGDA(), P, 1),
        social_choice.majority,
        social_choice.smith_set,
        social_choice.borda_score,
        social_choice.simpson_score,
        social_choice.transitivity,
        social_choice.fit_log_odds,
    ],
)
def test_what_needs_numpy_refuses_tensors(use):
    P = PreferenceMatrix(torch.tensor(CONDORCET.p))
    with pytest.raises(InvalidPreferences, match=r"is for numpy arrays and these are torch on cpu; pass P.numpy\(\)"):
        use(P)
    use(P.numpy())


def test_tabular_imports_no_torch():
    code = "import sys, tabular, tabular.dynamics, tabular.social_choice; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
