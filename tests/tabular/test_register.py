"""An algorithm from outside: what ``register`` takes, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
from numpy.testing import assert_allclose

from slhf.algorithms import EGPO, Algorithm
from slhf.errors import InvalidParameter
from tabular import dynamics
from tabular.dynamics import extragradient, nash_game
from tests.tabular.strategies import CONDORCET


@dataclass(frozen=True)
class Mine(Algorithm):
    """EGPO by another name."""

    name: ClassVar[str] = "mine"
    tau: float = 0.1


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(dynamics, "DYNAMICS", dict(dynamics.DYNAMICS))


def test_a_registered_algorithm_runs_like_the_project_s_own():
    with pytest.raises(InvalidParameter, match="no tabular dynamics"):
        dynamics.run(Mine(), CONDORCET, 1)
    dynamics.register(Mine, dynamics.Dynamics(nash_game, {"mirror": extragradient.step_egpo}, {}))
    own, theirs = (dynamics.run(spec(0.5, 0.1), CONDORCET, 50, 10) for spec in (Mine, EGPO))
    assert_allclose(own.policies, theirs.policies, rtol=0, atol=0)
    assert_allclose(own.distances, theirs.distances, rtol=0, atol=0)
    with pytest.raises(InvalidParameter, match="mine has no steps from samples"):
        dynamics.run(Mine(), CONDORCET, 1, seed=0)


def test_a_game_without_a_function_and_an_algorithm_without_a_step_are_refused():
    with pytest.raises(InvalidParameter, match="has no gap and no solution"):
        dynamics.register(
            Mine, dynamics.Dynamics(SimpleNamespace(create_game=print, init=print), {"mirror": print}, {})
        )
    with pytest.raises(InvalidParameter, match="at least one exact step"):
        dynamics.register(Mine, dynamics.Dynamics(nash_game, {}, {}))
    assert Mine not in dynamics.DYNAMICS
