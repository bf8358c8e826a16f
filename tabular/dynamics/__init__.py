"""Learning dynamics on preference matrices: the spec's algorithm with exact expectations.

Each algorithm is one module with pure functions over a NamedTuple state that has a ``log_policy``:
``create_game(spec, P, leader_reference, follower_reference)``, ``init(game)``,
``STEPS[parameterization](spec, game, state)``, ``gap(game, state)`` and ``solution(game)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import trange

from slhf.algorithms import Algorithm, StackelbergGDA
from slhf.errors import InvalidParameter
from tabular.dynamics import stackelberg_gda
from tabular.policies import Array, total_variation
from tabular.preferences import PreferenceMatrix

MODULES: dict[type[Algorithm], ModuleType] = {StackelbergGDA: stackelberg_gda}
"""Which module runs which spec."""

__all__ = ["MODULES", "Trace", "run"]


@dataclass(frozen=True)
class Trace:
    """What a run passed through, at its K recorded steps.

    Attributes:
        steps: ``(K,)``, how many steps had been taken; the first is 0, the last is the run's length.
        policies: ``(K, ..., n)``, the Leader's (or only) policy.
        gaps: ``(K, ...)``, the algorithm's own distance from equilibrium, in units of preference.
        distances: ``(K, ...)``, total variation between ``policies`` and the exact solution.
        state: the algorithm's state after the last step.
    """

    steps: NDArray[np.int_]
    policies: Array
    gaps: Array
    distances: Array
    state: Any


def run(
    spec: Algorithm,
    P: PreferenceMatrix,
    steps: int,
    record_every: int = 1,
    parameterization: str = "simplex",
    leader_reference: ArrayLike | None = None,
    follower_reference: ArrayLike | None = None,
    progress: bool = False,
) -> Trace:
    """Follow ``spec`` on ``P`` from the references, every game of the batch at once.

    Args:
        spec: the algorithm and its settings, such as ``StackelbergGDA(learning_rate=.05)``.
        P: preferences of shape ``(..., n, n)``.
        steps: how many steps to take.
        record_every: steps between records; the first and last states are always recorded.
        parameterization: what the steps move, "simplex" (probabilities) or "softmax" (logits).
        leader_reference: pi_ref, broadcastable to ``(..., n)``; None is uniform.
        follower_reference: omega_ref, broadcastable to ``(..., n, n)``; None is uniform.
        progress: show a progress bar on standard error.

    Raises:
        InvalidParameter: an algorithm or parameterisation that is not available, or a bad number of steps.
        InvalidReference: a bad reference.
    """
    module = _module(spec)
    if parameterization not in module.STEPS:
        raise InvalidParameter(
            f"parameterization = {parameterization!r}: {spec.name} is available as {', '.join(module.STEPS)}."
        )
    for name, value, least in (("steps", steps, 0), ("record_every", record_every, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InvalidParameter(f"{name} = {value!r}: must be a whole number of at least {least}.")
    game = module.create_game(spec, P, leader_reference, follower_reference)
    step, state = module.STEPS[parameterization], module.init(game)
    records = [(0, np.exp(state.log_policy), module.gap(game, state))]
    for t in trange(1, steps + 1, disable=not progress):
        state = step(spec, game, state)
        if t % record_every == 0 or t == steps:
            records.append((t, np.exp(state.log_policy), module.gap(game, state)))
    taken, policies, gaps = (np.array(column) for column in zip(*records, strict=True))
    return Trace(taken, policies, gaps, total_variation(policies, module.solution(game)), state)


def _module(spec: Algorithm) -> ModuleType:
    if type(spec) not in MODULES:
        available = ", ".join(known.__name__ for known in MODULES)
        raise InvalidParameter(f"{spec!r} has no tabular dynamics; available: {available}.")
    return MODULES[type(spec)]
