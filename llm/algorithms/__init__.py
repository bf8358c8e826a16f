"""One file per algorithm, each a module with

- ``collect(spec, collector, prompts, step) -> Experience``: sample and judge;
- ``loss(spec, logp, experience) -> (loss, metrics)``: a pure function of the (R, T) log-probabilities of the
  experience's rows; whatever else it needs was recorded before the update;
- optionally ``before_step(spec, policy, step, state) -> state``: called at every step between the backward pass
  and the optimiser's step, for algorithms that remember something. It may change the parameters and their
  gradients in place. ``state`` is a flat dict of tensors, empty at first; the loop carries it, and a checkpoint
  saves it.

A step is one gradient evaluation and one optimiser step for every algorithm, so that equal steps cost about the
same. An algorithm whose update takes several (EGPO) spreads it over as many steps.
"""

from types import ModuleType
from typing import Any

from torch import Tensor

from llm.algorithms import nash_md, rloo, stackelberg_gda
from llm.policy import Policy
from slhf.algorithms import RLOO, Algorithm, NashMD, StackelbergGDA
from slhf.errors import ConfigError

State = dict[str, Tensor]
"""What an algorithm remembers between steps, by name."""

IMPLEMENTATIONS: dict[type[Algorithm], ModuleType] = {StackelbergGDA: stackelberg_gda, RLOO: rloo, NashMD: nash_md}


def implementation(spec: Algorithm) -> ModuleType:
    """The module that runs ``spec`` on a language model.

    Raises:
        ConfigError: there is none.
    """
    if type(spec) not in IMPLEMENTATIONS:
        known = ", ".join(cls.__name__ for cls in IMPLEMENTATIONS)
        raise ConfigError(f"{type(spec).__name__} has no language-model implementation; there are: {known}.")
    return IMPLEMENTATIONS[type(spec)]


def before_step(spec: Algorithm, policy: Policy, step: int, state: State) -> State:
    """The algorithm's ``before_step``, where it has one."""
    hook = getattr(implementation(spec), "before_step", None)
    return state if hook is None else hook(spec, policy, step, state)


def parameter_groups(spec: Algorithm, policy: Policy) -> list[dict[str, Any]]:
    """The optimiser's groups; a group's learning rate is the run's times its ``factor``.

    With an adapter for each role the timescale is the factor of the Follower's: Adam, which divides a gradient
    by its size, would cancel a weight of its loss.

    Raises:
        ConfigError: two adapters, but the algorithm has one role.
    """
    if policy.sharing == "two" and not isinstance(spec, StackelbergGDA):
        raise ConfigError(f'{type(spec).__name__} has no Follower; set model.sharing to "one".')
    return policy.parameter_groups(spec.timescale if isinstance(spec, StackelbergGDA) else 1.0)
