"""Whether a game has one maximal lottery: against linear programs for the ends of the polytope of lotteries."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tabular.uniqueness import all_lotteries
from tests.tabular.strategies import examples


def ends(margins):
    """``(2, n)``: the least and the largest probability that a lottery gives to each alternative."""
    n = len(margins)
    programs = [
        [linprog(sign * e, A_ub=margins, b_ub=np.zeros(n), A_eq=np.ones((1, n)), b_eq=[1]).fun for e in np.eye(n)]
        for sign in (1, -1)
    ]
    return np.array(programs) * np.array([[1], [-1]])


@examples(80)
@given(n=st.integers(1, 6), largest=st.sampled_from([0, 1, 2, 5]), seed=st.integers(0, 2**32 - 1))
def test_a_lottery_is_unique_where_no_probability_can_move(n, largest, seed):
    upper = np.triu(np.random.default_rng(seed).integers(-largest, largest + 1, size=(n, n)), 1)
    margins = upper - upper.T
    found, (least, most) = all_lotteries(margins / 10), ends(margins)
    assert found.unique == bool(np.all(most - least < 1e-7))
    assert found.played.tolist() == (most > 1e-7).tolist()
    pure = np.all(margins <= 0, axis=0)  # the columns that no alternative beats
    assert found.every_policy == bool(pure[found.played].all())
