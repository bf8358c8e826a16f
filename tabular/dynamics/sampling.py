"""Samples of actions, and the symmetric game as they show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabular.dynamics.nash_game import NashGame, State
from tabular.policies import Array

Actions = NDArray[np.int_]


def sample(log_policy: Array, k: int, rng: np.random.Generator) -> Actions:
    """``(..., k)``: independent actions of policies ``(..., n)``, by the Gumbel-max trick."""
    noise = rng.gumbel(size=(*log_policy.shape[:-1], k, log_policy.shape[-1]))
    return np.argmax(log_policy[..., None, :] + noise, axis=-1)


@dataclass(frozen=True)
class SampledGame(NashGame):
    """A game whose win rates are means over actions of the opponent, drawn afresh at every call.

    Attributes:
        samples: k, how many actions.
        rng: where they come from.
    """

    samples: int
    rng: np.random.Generator

    def win_rates(self, log_policy: Array) -> Array:
        """``(..., n)``: the mean of p(y > y') over k draws y' ~ pi; its expectation is P(y > pi)."""
        drawn = sample(log_policy, self.samples, self.rng)
        counts = np.sum(drawn[..., None] == np.arange(log_policy.shape[-1]), axis=-2)
        return self.P.prefer(counts / self.samples)


def against_samples(step: Callable[[Any, NashGame, State], State]) -> Callable[..., State]:
    """An exact step's sampled form: the same formula with :class:`SampledGame`'s win rates.

    Where logits (or, inside the simplex, probabilities) are linear in the win rates, they move on average by
    what the exact step moves them. Two steps are biased: EGPO's, whose second opponent is not linear in the
    first one's win rates, by the order of eta^3; and OGDA's where its projection meets the border.
    """

    def sampled(spec: Any, game: NashGame, state: State, rng: np.random.Generator) -> State:
        return step(spec, SampledGame(game.P, game.tau, game.log_reference, spec.samples, rng), state)

    return sampled
