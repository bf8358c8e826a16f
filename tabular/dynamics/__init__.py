"""Learning dynamics on preference matrices: the spec's algorithm with exact expectations, or sampled.

An algorithm is a game and the forms that its steps can take, all pure functions:

- a *game module* has ``create_game(spec, P, leader_reference, follower_reference)``, ``init(game)``,
  ``gap(game, state)`` and ``solution(game)``; a state is a NamedTuple that has a ``log_policy``;
- a *step* is ``step(spec, game, state)``, a *sampled step* is ``step(spec, game, state, rng)``.

``DYNAMICS`` says which spec has which. A new algorithm is a spec, its steps and a line there, or from outside a
call of :func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import trange

from slhf.algorithms import (
    EGPO,
    INPO,
    MMD,
    MPO,
    OMWU,
    RLOO,
    SPO,
    SPPO,
    Algorithm,
    NashMD,
    OnlineDPO,
    OnlineIPO,
    StackelbergGDA,
)
from slhf.errors import InvalidParameter
from tabular.dynamics import (
    extragradient,
    mirror_descent,
    nash_game,
    pairwise_losses,
    policy_gradient,
    reward_game,
    stackelberg_gda,
)
from tabular.dynamics.sampling import against_samples
from tabular.policies import Array, total_variation
from tabular.preferences import PreferenceMatrix

Step = Callable[..., Any]


@dataclass(frozen=True)
class Dynamics:
    """How one algorithm runs.

    Attributes:
        game: the module of the game it plays, or any object with its four functions.
        steps: its exact step in each form; the first is the default.
        sampled: its step from samples, in the forms that have one. "softmax" forms estimate the gradient from
            sampled actions (what ``llm`` does); others play against sampled opponents (:mod:`~.sampling`).
    """

    game: Any
    steps: Mapping[str, Step]
    sampled: Mapping[str, Step]


def _nash(steps: Mapping[str, Step], softmax_sampled: Step | None = None) -> Dynamics:
    """An algorithm of the symmetric game: all but its "softmax" form see the game only through win rates."""
    sampled: dict[str, Step] = {name: against_samples(step) for name, step in steps.items()}
    if softmax_sampled is not None:
        sampled["softmax"] = softmax_sampled
    return Dynamics(nash_game, steps, sampled)


DYNAMICS: dict[type[Algorithm], Dynamics] = {
    StackelbergGDA: Dynamics(stackelberg_gda, stackelberg_gda.STEPS, stackelberg_gda.SAMPLED_STEPS),
    RLOO: Dynamics(reward_game, {"softmax": policy_gradient.step_rloo}, {"softmax": policy_gradient.step_rloo_sampled}),
    NashMD: _nash(
        {
            "mirror": mirror_descent.step_nash_md,
            "scheduled": mirror_descent.step_nash_md_scheduled,
            "softmax": policy_gradient.step_nash_pg,
        },
        policy_gradient.step_nash_pg_sampled,
    ),
    SPO: _nash(
        {"softmax": policy_gradient.step_nash_pg, "mirror": mirror_descent.step_regularised},
        policy_gradient.step_spo_sampled,
    ),
    SPPO: _nash(
        {"mirror": mirror_descent.step_mwu, "softmax": policy_gradient.step_nash_pg}, policy_gradient.step_spo_sampled
    ),
    OMWU: _nash({"mirror": extragradient.step_omwu, "simplex": extragradient.step_ogda}),
    INPO: _nash({"mirror": mirror_descent.step_regularised}),
    EGPO: _nash({"mirror": extragradient.step_egpo}),
    MMD: _nash({"mirror": mirror_descent.step_mmd}),
    MPO: _nash({"mirror": mirror_descent.step_mpo}),
    OnlineIPO: _nash({"softmax": pairwise_losses.step_ipo}, pairwise_losses.step_ipo_sampled),
    OnlineDPO: _nash({"softmax": pairwise_losses.step_dpo}, pairwise_losses.step_dpo_sampled),
}
"""Which game and which steps each spec has."""

__all__ = ["DYNAMICS", "Dynamics", "Trace", "register", "run"]


def register(spec: type[Algorithm], dynamics: Dynamics) -> None:
    """Let :func:`run` follow another algorithm; to register the same class again replaces it.

    Raises:
        InvalidParameter: the game lacks one of its functions, or there is no exact step.
    """
    parts = ("create_game", "init", "gap", "solution")
    missing = [part for part in parts if not callable(getattr(dynamics.game, part, None))]
    if missing:
        raise InvalidParameter(f"The game of {spec.__name__} has no {' and no '.join(missing)}.")
    if not dynamics.steps:
        raise InvalidParameter(f"{spec.__name__} needs at least one exact step.")
    DYNAMICS[spec] = dynamics


@dataclass(frozen=True)
class Trace:
    """What a run passed through, at its K recorded steps.

    Attributes:
        steps: ``(K,)``, how many steps had been taken; the first is 0, the last is the run's length.
        policies: ``(K, ..., n)``, the Leader's (or only) policy.
        averages: ``(K, ..., n)``, the mean of all policies up to there, the first one included.
        gaps: ``(K, ...)``, how far ``policies`` are from solving the algorithm's own game: the duality gap
            (SLHF) or exploitability (NLHF) in units of preference, what is left to earn (RLHF) in nats.
        distances: ``(K, ...)``, total variation between ``policies`` and the exact solution of that game.
            For OnlineDPO and for NashMD without a schedule that is not where they end, but what they are
            compared with: the KL-Nash. At temperature 0, where there can be many equilibria, it is the
            nearest one to the reference, which need not be the one that is approached: see ``gaps``.
        solution: ``(..., n)``, that exact solution.
        state: the algorithm's state after the last step.
    """

    steps: NDArray[np.int_]
    policies: Array
    averages: Array
    gaps: Array
    distances: Array
    solution: Array
    state: Any


def run(
    spec: Algorithm,
    P: PreferenceMatrix,
    steps: int,
    record_every: int = 1,
    parameterization: str | None = None,
    leader_reference: ArrayLike | None = None,
    follower_reference: ArrayLike | None = None,
    progress: bool = False,
    seed: int | None = None,
) -> Trace:
    """Follow ``spec`` on ``P`` from the references, every game of the batch at once.

    Args:
        spec: the algorithm and its settings, such as ``StackelbergGDA(learning_rate=.05)``.
        P: preferences of shape ``(..., n, n)``. Games of a batch draw independently, so copies of one game,
            ``PreferenceMatrix(np.broadcast_to(P.p, (seeds, n, n)))``, are runs with as many seeds.
        steps: how many steps to take.
        record_every: steps between records; the first and last states are always recorded.
        parameterization: the form of the steps, by what they move: "simplex" (probabilities, with
            projections), "softmax" (logits, by the policy gradient) or "mirror" (logits, by the reward
            itself); for NashMD also "scheduled". None takes the algorithm's first in ``DYNAMICS`` that is
            exact, or with a seed sampled.
        leader_reference: pi_ref, broadcastable to ``(..., n)``; None is uniform.
        follower_reference: omega_ref, broadcastable to ``(..., n, n)``; None is uniform.
        progress: show a progress bar on standard error, if that is a terminal.
        seed: take steps from sampled actions, as many as the spec says, instead of expectations. Step t
            draws from (seed, t) for the whole batch.

    Raises:
        InvalidParameter: an algorithm or form that is not available, or a bad number of steps or seed, or
            a learning rate so large that probabilities became NaN.
        InvalidReference: a bad reference.
        InvalidPreferences: P holds another array than numpy's.
        SLHFError: what the game's solver raises, for the exact solution.
    """
    P.require_numpy("tabular.dynamics.run")
    dynamics = _dynamics(spec)
    for name, value, least in (
        ("steps", steps, 0),
        ("record_every", record_every, 1),
        ("seed", 0 if seed is None else seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InvalidParameter(f"{name} = {value!r}: must be a whole number of at least {least}.")
    step = _step(dynamics, spec, parameterization, seed)
    game = dynamics.game.create_game(spec, P, leader_reference, follower_reference)
    exact, state = dynamics.game.solution(game), dynamics.game.init(game)
    total = np.exp(state.log_policy)
    records = [(0, total, total, dynamics.game.gap(game, state))]
    for t in trange(1, steps + 1, disable=None if progress else True, leave=False):
        state = step(spec, game, state) if seed is None else step(spec, game, state, np.random.default_rng([seed, t]))
        policy = np.exp(state.log_policy)
        total = total + policy
        if t % record_every == 0 or t == steps:
            if np.isnan(policy).any():
                raise InvalidParameter(f"{spec!r} diverged by step {t}; lower the learning rate.")
            records.append((t, policy, total / (t + 1), dynamics.game.gap(game, state)))
    taken, policies, averages, gaps = (np.array(column) for column in zip(*records, strict=True))
    return Trace(taken, policies, averages, gaps, total_variation(policies, exact), exact, state)


def _dynamics(spec: Algorithm) -> Dynamics:
    if type(spec) not in DYNAMICS:
        available = ", ".join(known.__name__ for known in DYNAMICS)
        raise InvalidParameter(f"{spec!r} has no tabular dynamics; available: {available}.")
    return DYNAMICS[type(spec)]


def _step(dynamics: Dynamics, spec: Algorithm, form: str | None, seed: int | None) -> Step:
    """The step of this form: exact without a seed, sampled with one."""
    steps = dynamics.steps if seed is None else dynamics.sampled
    sampled = "" if seed is None else " from samples"
    if not steps:
        raise InvalidParameter(f"{spec.name} has no steps{sampled}.")
    form = next(iter(steps)) if form is None else form
    if form not in steps:
        raise InvalidParameter(f"parameterization = {form!r}: {spec.name} is available as {', '.join(steps)}{sampled}.")
    return steps[form]
