"""The signals are the same functions on numpy arrays and torch tensors, and both worlds call them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import llm.algorithms.nash_md
import llm.algorithms.rloo
import llm.algorithms.stackelberg_gda
import llm.experience
import llm.generation
import tabular.dynamics.stackelberg_gda
from slhf import signals

VECTORS = arrays(np.float64, (3, 4), elements=st.floats(-5, 5))


@settings(max_examples=50, deadline=None)
@given(VECTORS, VECTORS, VECTORS)
def test_numpy_equals_torch(p, a, b):
    calls = [
        lambda p, a, b: signals.leader_reward(p, a, b, tau_leader=0.3, tau_follower=0.7),
        lambda p, a, b: signals.follower_reward(p, a, tau_follower=0.7),
        lambda p, a, b: signals.policy_reward(p, a, tau=0.3),
        lambda p, a, b: signals.leave_one_out(p),
        lambda p, a, b: signals.geometric_mixture(a, b, mixture=0.25),
    ]
    for call in calls:
        with_numpy = call(p, a, b)
        with_torch = call(*map(torch.from_numpy, (p, a, b)))
        np.testing.assert_allclose(with_torch.numpy(), with_numpy, atol=1e-12)


def test_by_hand():
    assert signals.leader_reward(0.6, 0.5, 2.0, tau_leader=0.1, tau_follower=0.2) == pytest.approx(0.6 + 0.1 - 0.2)
    assert signals.follower_reward(0.6, 0.5, tau_follower=0.2) == pytest.approx(0.4 - 0.1)
    assert signals.policy_reward(0.6, 2.0, tau=0.1) == pytest.approx(0.4)
    np.testing.assert_allclose(signals.leave_one_out(np.array([1.0, 2.0, 6.0])), [4.0, 3.5, 1.5])


def test_leave_one_out_needs_company():
    with pytest.raises(ValueError, match="at least 2"):
        signals.leave_one_out(np.ones((3, 1)))


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (tabular.dynamics.stackelberg_gda, ["leader_reward", "follower_reward"]),
        (llm.algorithms.stackelberg_gda, ["leader_reward", "follower_reward"]),
        (llm.algorithms.rloo, ["policy_reward"]),
        (llm.algorithms.nash_md, ["policy_reward"]),
        (llm.experience, ["leave_one_out"]),
        (llm.generation, ["geometric_mixture"]),
    ],
)
def test_both_worlds_hold_the_same_functions(module, names):
    """The objects themselves, so that no world can have its own copy of a formula."""
    for name in names:
        assert getattr(module, name) is getattr(signals, name)
