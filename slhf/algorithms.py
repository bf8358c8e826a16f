"""What an algorithm is, as a frozen spec. The same object runs in either world.

``tabular.dynamics.run(spec, P, ...)`` follows the exact (expected) dynamics on a preference matrix;
``llm.train(spec, ...)`` follows their sampled gradients on a language model. A spec holds only what
both worlds understand; how a world realises it (parameterisation, optimiser, batch size) is chosen
where it is run.

Every field is documented with its symbol and unit; temperatures are in units of preference per nat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from slhf.errors import InvalidParameter


@dataclass(frozen=True)
class Algorithm:
    """Base of the specs: checks the ranges that the fields declare in ``POSITIVE`` and so on."""

    name: ClassVar[str]
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate",)
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ()
    UNIT_INTERVAL: ClassVar[tuple[str, ...]] = ()
    COUNTS: ClassVar[dict[str, int]] = {}

    learning_rate: float = 0.05
    """eta, the (Leader's) step size."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            problem = self._problem(field.name, value)
            if problem:
                raise InvalidParameter(f"{type(self).__name__}.{field.name} = {value!r}: {problem}.")

    def _problem(self, name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return "must be a finite number"
        if name in self.POSITIVE and value <= 0:
            return "must be positive"
        if name in self.NON_NEGATIVE and value < 0:
            return "must not be negative"
        if name in self.UNIT_INTERVAL and not 0 <= value <= 1:
            return "must lie in [0, 1]"
        if name in self.COUNTS and (not isinstance(value, int) or value < self.COUNTS[name]):
            return f"must be a whole number of at least {self.COUNTS[name]}"
        return ""


@dataclass(frozen=True)
class StackelbergGDA(Algorithm):
    """Two-timescale gradient descent-ascent on the SLHF objective (arXiv 2512.16626, Alg. 1).

    The Leader ascends and the Follower descends
    E[p(y > y')] + tau_F KL(omega || omega_ref) - tau_L KL(pi || pi_ref).
    """

    name: ClassVar[str] = "stackelberg_gda"
    POSITIVE: ClassVar[tuple[str, ...]] = ("learning_rate", "timescale")
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau_leader", "tau_follower")
    COUNTS: ClassVar[dict[str, int]] = {"leader_samples": 1, "follower_samples": 1}

    timescale: float = 5.0
    """kappa = eta_F / eta_L: how much faster the Follower moves. With shared parameters it weighs
    the Follower's loss instead."""
    tau_leader: float = 0.1
    """tau_L, the price of the Leader's KL to its reference."""
    tau_follower: float = 0.1
    """tau_F, the price of the Follower's KL to its reference."""
    leader_samples: int = 1
    """Leader answers per prompt when sampling; 2 or more use leave-one-out baselines, 1 uses 1/2."""
    follower_samples: int = 1
    """Follower answers per Leader answer when sampling; baselines as for the Leader."""


@dataclass(frozen=True)
class RLOO(Algorithm):
    """REINFORCE with a leave-one-out baseline on a scalar reward (arXiv 2402.14740).

    The reward is the Bradley-Terry fit of the preferences, which is the compression RLHF makes;
    stationary at pi proportional to pi_ref exp(r / tau).
    """

    name: ClassVar[str] = "rloo"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 2}

    tau: float = 0.1
    """tau, the price of the KL to the reference, in units of reward per nat."""
    samples: int = 2
    """k, answers per prompt; each one's baseline is the mean reward of the others."""


@dataclass(frozen=True)
class NashMD(Algorithm):
    """Nash-MD policy gradient (arXiv 2312.00886, Section 7).

    The opponent plays the geometric mixture pi^(1 - mixture) pi_ref^mixture, token by token. For answers of
    one token, at the stationary point of the sampled gradient, the mixture is the KL-Nash equilibrium at temperature
    tau / (1 - mixture), and pi is proportional to pi_ref exp(P(. > pi_mix) / tau).
    """

    name: ClassVar[str] = "nash_md"
    NON_NEGATIVE: ClassVar[tuple[str, ...]] = ("tau",)
    UNIT_INTERVAL: ClassVar[tuple[str, ...]] = ("mixture",)
    COUNTS: ClassVar[dict[str, int]] = {"samples": 1}

    tau: float = 0.1
    """tau, the price of the KL to the reference."""
    mixture: float = 0.125
    """Weight of the *reference* in the geometric mixture the opponent samples from; 0 is self-play."""
    samples: int = 1
    """k, answers per prompt; 2 or more use leave-one-out baselines, 1 uses 1/2."""


ALGORITHMS: dict[str, type[Algorithm]] = {cls.name: cls for cls in (StackelbergGDA, RLOO, NashMD)}
"""The specs by the name used in sweep files."""
