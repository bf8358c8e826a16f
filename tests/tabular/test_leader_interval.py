"""The Leader that moves only at every so many-th step of StackelbergGDA, in both worlds."""

import itertools

import numpy as np
import pytest

from llm.algorithms.stackelberg_gda import leader_moves
from slhf.algorithms import StackelbergGDA
from tabular import PreferenceMatrix
from tabular.dynamics import run

pytestmark = pytest.mark.numeric

GAME = PreferenceMatrix(np.array([[0.5, 0.65, 0.4], [0.35, 0.5, 0.75], [0.6, 0.25, 0.5]]))


@pytest.mark.parametrize("form", ["simplex", "softmax", "mirror"])
@pytest.mark.parametrize("sampled", [False, True])
def test_the_leader_moves_when_its_turn_comes_and_the_follower_always(form, sampled):
    if sampled and form != "softmax":
        pytest.skip("only softmax steps are sampled")
    spec = StackelbergGDA(0.1, leader_interval=3, leader_samples=16, follower_samples=4)
    seed = 0 if sampled else None
    traces = [run(spec, GAME, steps, parameterization=form, seed=seed) for steps in range(7)]
    for step, (before, after) in enumerate(itertools.pairwise(traces)):
        moved = np.abs(after.policies[-1] - before.policies[-1]).max() > 1e-9
        assert moved == leader_moves(spec, step) == (step in (2, 5))
        assert np.abs(after.state.log_follower - before.state.log_follower).max() > 1e-9


def test_it_still_finds_the_exact_leader():
    spec = StackelbergGDA(0.05, timescale=1, leader_interval=5)
    assert run(spec, GAME, 20_000, record_every=20_000).distances[-1] < 1e-6
