"""solve_nlhf at temperature 0: maximal lotteries, all three selections."""

from __future__ import annotations

from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from slhf.errors import NotConverged
from tabular import PreferenceMatrix, lotteries, solve_nlhf, solve_slhf
from tabular.interior_point import central_lottery, polish
from tabular.pivoting import pivoted_lotteries
from tests.tabular.strategies import (
    CONDORCET,
    KINDS,
    complete,
    examples,
    games,
    policies,
    seeds,
    single_games,
    smith_set,
)

pytestmark = pytest.mark.numeric

WELL_SEPARATED = ("uniform", "coarse", "cyclic", "mallows", "clones")
ROCK_PAPER_SCISSORS_TWICE = PreferenceMatrix.from_margins(
    [[0, 0, 0.5, -0.5], [0, 0, 0.5, -0.5], [-0.5, -0.5, 0, 0.5], [0.5, 0.5, -0.5, 0]]
)


@examples()
@given(P=games(), selection=st.sampled_from(["any", "exact"]))
def test_nobody_beats_a_lottery(P, selection):
    s = solve_nlhf(P, selection=selection)
    assert np.all(np.einsum("...ij,...j->...i", P.margins, s.policy) <= 1e-9)
    assert np.all(s.certificate.gap <= 1e-9)
    assert_allclose(s.policy.sum(-1), np.ones(P.batch_shape))
    assert s.policy.shape == P.p.shape[:-1]


@examples()
@given(P=games())
def test_the_exact_lottery_is_proved(P):
    s = solve_nlhf(P, selection="exact")
    assert s.certificate.exact
    assert s.certificate.worst() == 0
    assert_allclose(s.policy, s.rational.astype(float))
    for index in np.ndindex(P.batch_shape):
        margins, pi = lotteries.as_fractions(P.p[index]), s.rational[index]
        assert all(isinstance(q, Fraction) and q >= 0 for q in pi)
        assert sum(pi) == 1
        assert max(sum(a * q for a, q in zip(row, pi, strict=True)) for row in margins) <= 0


def test_fractions_mean_what_people_write():
    margins = lotteries.as_fractions(np.array([[0.5, 0.1, 1 / 3], [0.9, 0.5, np.pi / 4], [2 / 3, 1 - np.pi / 4, 0.5]]))
    assert margins[1][0] == Fraction(2, 5)
    assert margins[0][1] == Fraction(-2, 5)
    assert margins[2][0] == Fraction(1, 6)
    assert margins[2][1] == Fraction(1 - np.pi / 4) - Fraction(1, 2)


def suggest(monkeypatch, policy):
    """Let the floating-point lottery of one game be this one."""
    monkeypatch.setattr(lotteries, "any_lotteries", lambda margins: (np.array([policy], dtype=float), None, None))


@pytest.mark.parametrize("wrong", [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]])
def test_exact_survives_a_bad_floating_point_start(monkeypatch, wrong):
    """The start is a suggestion: infeasible ones are dropped."""
    suggest(monkeypatch, wrong)
    expected = [Fraction(1, 2), Fraction(1, 5), Fraction(3, 10)]
    assert solve_nlhf(CONDORCET, selection="exact").rational.tolist() == expected


def test_exact_where_the_suggested_actions_have_many_lotteries(monkeypatch):
    """A_SS x = 0 does not determine x here: the simplex method starts from the suggestion instead."""
    suggest(monkeypatch, [0.25, 0.25, 0.25, 0.25])
    s = solve_nlhf(ROCK_PAPER_SCISSORS_TWICE, selection="exact")
    assert s.rational.tolist()[2:] == [Fraction(1, 3)] * 2
    assert max(ROCK_PAPER_SCISSORS_TWICE.margins @ s.rational) <= 0


@examples()
@given(P=single_games(kinds=("uniform", "cyclic"), sizes=(2, 9)))
def test_exact_and_its_simplex_method_start_at_the_optimum(P):
    """Otherwise it would still be right, but slow."""
    counts = np.array([[int(a * 2**60) for a in row] for row in P.margins], dtype=object)
    policy = solve_nlhf(P).policy
    x = lotteries._kernel(counts, np.flatnonzero(policy))
    assert lotteries._is_lottery(counts, x)
    assert_allclose(np.array([Fraction(entry, sum(x)) for entry in x]).astype(float), policy, atol=1e-9)
    start = lotteries._Tableau(counts + 2**60).suggested(P.margins, policy)
    assert start is not None
    assert start.d > 0
    assert (start.T[-1, :-1] >= 0).all()


@pytest.mark.parametrize("x", [[0, 0, 0], [1, 1, -1], [1, 1, 1], [1, 0, 0]])
def test_the_proof_refuses_what_is_no_lottery(x):
    counts = np.array([[0, 3, -1], [-3, 0, 5], [1, -5, 0]], dtype=object)
    assert lotteries._is_lottery(counts, [5, 1, 3])
    assert not lotteries._is_lottery(counts, x)


def test_many_degenerate_games_need_no_linear_program():
    """6,000 games with ties, clones and near ties, 1 to 12 actions, by pivoting and by the interior-point method."""
    rng = np.random.default_rng(0)
    for kind, draw in KINDS.items():
        for n in (1, 2, 3, 4, 7, 12):
            p = (
                complete(draw(rng, (160,), n))
                if n >= 3 or kind != "clones"
                else complete(rng.uniform(size=(160, n, n)))
            )
            margins = PreferenceMatrix(p).margins
            _, certificate, proved = lotteries.any_lotteries(margins)
            assert certificate.method == "principal pivoting"
            assert np.all(certificate.residual <= 1e-12 * np.abs(margins).max((-2, -1)))
            assert proved.all()
            for A in margins[:10]:
                x, w, steps = central_lottery(A)
                policy = polish(A, np.where(x > w, x, 0))
                assert (A @ policy).max() <= 1e-13
                assert steps <= 40
                assert_allclose(x.sum(), 1)
                assert np.all(np.maximum(x, w) > 1e3 * np.minimum(x, w))


def test_symmetric_games_need_no_linear_program():
    """Circulants with ties, with clones, and with a small game in the place of each action: all Borda scores tie."""
    rng = np.random.default_rng(0)
    for n in (3, 5, 6, 7, 8, 9, 11, 12, 15, 21):
        distance = (np.arange(n) - np.arange(n)[:, None]) % n
        for _ in range(150):
            half = rng.integers(-2, 3, size=(n - 1) // 2) / 4
            A = np.r_[0, half, np.zeros((n - 1) % 2), -half[::-1]][distance]
            inner = np.triu(rng.integers(-1, 2, size=(3, 3)), 1) / 8
            for margins in (
                A,
                np.kron(A, np.ones((2, 2))),
                np.kron(A, np.ones((3, 3))) + np.kron(np.eye(n), inner - inner.T),
            ):
                _, certificate, proved = lotteries.any_lotteries(margins[None])
                assert certificate.method == "principal pivoting"
                assert proved.all()


@pytest.mark.parametrize("limit", [0, 500])
@examples()
@given(P=games(kinds=("uniform", "cyclic")))
def test_both_methods_find_the_unique_lottery_of_the_linear_program(limit, P):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lotteries, "LARGEST_PIVOTED", limit)
        s = solve_nlhf(P)
    assert s.certificate.method == ("principal pivoting" if limit else "interior point")
    for index in np.ndindex(P.batch_shape):
        policy, _ = lotteries._minimax_program(P.margins[index])
        assert_allclose(s.policy[index], policy, atol=1e-7)


@pytest.mark.parametrize(("n", "method"), [(150, "principal pivoting"), (700, "interior point")])
def test_large_games(n, method):
    """One without ties, one with many, and one where every action has a clone."""
    rng = np.random.default_rng(n)
    tied, half = rng.integers(-2, 3, size=(n, n)) / 4, rng.uniform(-0.5, 0.5, size=(n // 2, n // 2))
    for upper in (rng.uniform(-0.5, 0.5, size=(n, n)), tied, np.kron(half, np.ones((2, 2)))):
        blocks = np.kron(np.triu(np.ones((n // 2, n // 2)), 1), np.ones((2, 2))) * upper
        s = solve_nlhf(PreferenceMatrix.from_margins(blocks - blocks.T))
        assert s.certificate.method == method
        assert s.certificate.residual <= 1e-12
        assert 1 < s.support.sum() < n


@examples()
@given(P=games(batches=((3,),)), seed=seeds)
def test_exploitability_by_its_definition(P, seed):
    policies_ = np.random.default_rng(seed).dirichlet(np.ones(P.n), size=3)
    policies_[0] = np.eye(P.n)[0]
    advantage = np.einsum("gij,gj->gi", P.margins, policies_)
    gap, residual, proved = lotteries.exploitability(P.margins, policies_)
    assert_allclose(gap, advantage.max(-1), atol=1e-15)
    assert_allclose(residual, gap - np.where(policies_ > 0, advantage, np.inf).min(-1), atol=1e-15)
    assert proved.tolist() == (residual <= 1e-9 * np.abs(P.margins).max((-2, -1))).tolist()
    for no_policy in (np.nan * policies_, 1.1 * policies_, 0 * policies_, policies_ - 2 * np.eye(P.n)[0]):
        gap, residual, proved = lotteries.exploitability(P.margins, no_policy)
        assert np.all(np.isposinf([gap, residual]))
        assert not proved.any()


@examples()
@given(P=single_games())
def test_pivoting_ends_at_a_vertex(P):
    """No other lottery has the same support: A_SS has a kernel of one dimension."""
    (policy,), (pivots,) = pivoted_lotteries(P.margins[None])
    played = np.flatnonzero(policy > 1e-12)
    singular = np.linalg.svd(P.margins[np.ix_(played, played)], compute_uv=False)
    assert np.sum(singular > 1e-9) == len(played) - 1
    assert 0 <= pivots <= 20 * P.n + 100


@examples()
@given(P=single_games(kinds=WELL_SEPARATED), bound=st.sampled_from([1e-6, 1.0]))
def test_the_essential_set_is_what_exact_lotteries_play(P, bound):
    """By the interior-point method, and by the linear program for which nothing is clear enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lotteries, "CLEAR", bound)
        essential = lotteries.essential_set(P.margins)
    plays = np.zeros(P.n, dtype=bool)
    for i in range(P.n):  # the most that a lottery can give to i
        p = cp.Variable(P.n, nonneg=True)
        plays[i] = cp.Problem(cp.Maximize(p[i]), [cp.sum(p) == 1, P.margins @ p <= 0]).solve(cp.HIGHS) > 1e-7
    assert essential.tolist() == plays.tolist()


@examples()
@given(P=games(kinds=("uniform", "cyclic")))
def test_float_and_exact_agree_where_the_lottery_is_unique(P):
    assert_allclose(solve_nlhf(P).policy, solve_nlhf(P, selection="exact").policy, atol=1e-7)


@examples()
@given(P=single_games(kinds=WELL_SEPARATED), selection=st.sampled_from(["any", "max_entropy", "exact"]))
def test_lotteries_stay_in_the_smith_set(P, selection):
    support = set(np.flatnonzero(solve_nlhf(P, selection=selection).policy).tolist())
    assert support <= smith_set(P.p)


@examples()
@given(P=single_games(), winner=st.integers(0, 5), seed=seeds)
def test_a_condorcet_winner_takes_everything(P, winner, seed):
    winner %= P.n
    p = P.p.copy()
    p[winner] = np.random.default_rng(seed).uniform(0.51, 1, size=P.n)
    p[:, winner] = 1 - p[winner]
    p[winner, winner] = 0.5
    decided = PreferenceMatrix(p)
    for selection in ("any", "max_entropy", "exact"):
        assert_allclose(solve_nlhf(decided, selection=selection).policy, np.eye(P.n)[winner], atol=1e-12)
    leader = solve_slhf(decided, 0, 0)
    assert_allclose(leader.policy, np.eye(P.n)[winner])
    assert leader.value == 0.5


@examples()
@given(n=st.integers(2, 7), seed=seeds)
def test_odd_margins_give_a_unique_lottery_with_odd_support(n, seed):
    upper = np.triu(np.random.default_rng(seed).integers(-10, 10, size=(n, n)) * 2 + 1, 1)
    P = PreferenceMatrix.from_margins((upper - upper.T) / 50)
    s = solve_nlhf(P, selection="exact")
    assert s.support.sum() % 2 == 1
    assert_allclose(solve_nlhf(P).policy, s.policy, atol=1e-8)
    assert_allclose(solve_nlhf(P, selection="max_entropy").policy, s.policy, atol=1e-8)


@examples()
@given(margins=st.tuples(*[st.floats(0.01, 0.5)] * 3))
def test_three_cycle(margins):
    a, b, c = margins  # of 0 over 1, 1 over 2, 2 over 0
    P = PreferenceMatrix.from_margins([[0, a, -c], [-a, 0, b], [c, -b, 0]])
    expected = np.array([b, c, a]) / (a + b + c)
    for selection in ("any", "max_entropy", "exact"):
        assert_allclose(solve_nlhf(P, selection=selection).policy, expected, atol=1e-9)


@examples()
@given(P=games(kinds=("uniform", "cyclic")), scale=st.floats(1e-6, 1))
def test_scaling_the_margins_leaves_the_lottery(P, scale):
    scaled = PreferenceMatrix.from_margins(P.margins * scale)
    assert_allclose(solve_nlhf(scaled).policy, solve_nlhf(P).policy, atol=1e-6)


def test_max_entropy_of_duplicated_rock_paper_scissors():
    s = solve_nlhf(ROCK_PAPER_SCISSORS_TWICE, reference=[0.7, 0.1, 0.1, 0.1], selection="max_entropy")
    assert_allclose(s.policy, [7 / 24, 1 / 24, 1 / 3, 1 / 3], atol=1e-14)


def test_max_entropy_where_the_lotteries_end_at_a_losing_opponent():
    """0 and 1 tie; 2 beats 0 and loses to 1, so lotteries (1 - q, q, 0) need q >= 1/2: a corner, not an equality."""
    P = PreferenceMatrix.from_margins([[0, 0, -0.3], [0, 0, 0.3], [0.3, -0.3, 0]])
    skewed = solve_nlhf(P, reference=[0.8, 0.1, 0.1], selection="max_entropy")
    assert_allclose(skewed.policy, [0.5, 0.5, 0], atol=1e-12)
    other_way = solve_nlhf(P, reference=[0.2, 0.6, 0.2], selection="max_entropy")
    assert_allclose(other_way.policy, [0.25, 0.75, 0], atol=1e-12)


@examples()
@given(P=single_games(kinds=WELL_SEPARATED), seed=seeds)
def test_max_entropy_is_the_limit_of_kl_nash(P, seed):
    reference = policies((P.n,), seed, floor=0.05)
    s = solve_nlhf(P, reference=reference, selection="max_entropy")
    assume(lotteries_are_stable(P))
    assert_allclose(solve_nlhf(P, 1e-7, reference).policy, s.policy, atol=2e-4)


def lotteries_are_stable(P):
    """Whether the game is far from others with other lotteries, so that tau = 1e-7 is small."""
    try:
        policy = solve_nlhf(P, selection="max_entropy").policy
    except NotConverged:
        return False
    slack = -P.margins @ policy
    return np.abs(policy - slack).min() > 1e-2


@examples(10)
@given(P=single_games(kinds=("coarse", "clones"), sizes=(3, 5)), seed=seeds)
def test_max_entropy_agrees_with_cvxpy(P, seed):
    reference = policies((P.n,), seed, floor=0.05)
    s = solve_nlhf(P, reference=reference, selection="max_entropy")
    x = cp.Variable(P.n, nonneg=True)
    constraints = [cp.sum(x) == 1, P.margins @ x <= 0]
    cp.Problem(cp.Minimize(cp.sum(cp.rel_entr(x, reference))), constraints).solve(solver=cp.CLARABEL)
    assert_allclose(s.policy, x.value, atol=2e-4)


@examples()
@given(P=games(kinds=("coarse", "clones")), seed=seeds)
def test_max_entropy_follows_a_permutation_and_a_batch(P, seed):
    reference = policies(P.p.shape[:-1], seed)
    s = solve_nlhf(P, reference=reference, selection="max_entropy")
    order = np.random.default_rng(seed).permutation(P.n)
    renamed = PreferenceMatrix(P.p[..., order[:, None], order])
    t = solve_nlhf(renamed, reference=reference[..., order], selection="max_entropy")
    assert_allclose(t.policy, s.policy[..., order], atol=1e-7)
    for index in np.ndindex(P.batch_shape):
        one = solve_nlhf(PreferenceMatrix(P.p[index]), reference=reference[index], selection="max_entropy")
        assert_allclose(s.policy[index], one.policy, atol=1e-12)


def test_everything_tied():
    P = PreferenceMatrix(np.full((3, 3), 0.5))
    reference = [0.2, 0.3, 0.5]
    assert_allclose(solve_nlhf(P, reference=reference, selection="max_entropy").policy, reference)
    for selection in ("any", "exact"):
        assert solve_nlhf(P, selection=selection).certificate.worst() == 0


def test_a_wrong_lottery_is_replaced_by_the_linear_programs_and_that_is_said(monkeypatch):
    uniform = np.full((2, 3), 1 / 3)
    monkeypatch.setattr(lotteries, "pivoted_lotteries", lambda margins: (uniform.copy(), np.array([7, 7])))
    s = solve_nlhf(PreferenceMatrix([CONDORCET.p, np.full((3, 3), 0.5)]))
    assert_allclose(s.policy, [[0.5, 0.2, 0.3], uniform[1]], atol=1e-12)
    assert s.certificate.method == "principal pivoting, linear program for 1 of 2 games"
    assert s.certificate.iterations[0] != 7
    assert s.certificate.iterations[1] == 7
    assert np.all(s.certificate.residual <= 1e-12)


def test_a_lottery_out_of_tolerance_is_an_error(monkeypatch):
    uniform = np.full(3, 1 / 3)
    monkeypatch.setattr(lotteries, "pivoted_lotteries", lambda margins: (uniform[None].copy(), np.array([1])))
    monkeypatch.setattr(lotteries, "_minimax_program", lambda margins: (uniform, 1))
    with pytest.raises(NotConverged, match=r"linear program for 1 of 1 games left an exploitability of") as caught:
        solve_nlhf(CONDORCET)
    assert caught.value.certificate.worst() > 0.01
    assert_allclose(caught.value.best.policy, uniform)


@pytest.mark.parametrize("w", [[0, 0, 1e-5], [0, 1e-8, 0]])
def test_an_unclear_essential_set_is_left_to_the_linear_program(monkeypatch, w):
    """x says that 2 is not played, or x and w do not agree; the rotation of three plays them all."""
    x = np.array([0.5, 0.5, 1e-5 if w[2] else 0])
    monkeypatch.setattr(lotteries, "central_lottery", lambda margins: (x, np.array(w), 1))
    assert lotteries.essential_set(CONDORCET.margins).all()


def test_games_too_close_to_call_are_an_error():
    """0 beats 1 by so little that the linear program's tolerance cannot tell whether 1 is ever played."""
    margins = np.zeros((4, 4))
    margins[0, 1], margins[2, 3] = 2e-9, 0.4
    P = PreferenceMatrix.from_margins(margins - margins.T)
    with pytest.raises(NotConverged, match="cannot be told"):
        solve_nlhf(P, selection="max_entropy")
    assert not solve_nlhf(P, selection="exact").support[1]
