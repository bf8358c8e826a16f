"""One file per algorithm, each a module with

- ``collect(spec, collector, prompts, step) -> Experience``: sample and judge;
- ``loss(spec, logp, experience) -> (loss, metrics)``: a pure function of the (R, T) log-probabilities of the
  experience's rows; whatever else it needs was recorded before the update;
- optionally ``before_step(spec, policy, step, state) -> state``: called at every step between the backward pass
  and the optimiser's step, for algorithms that remember something. It may change the parameters and their
  gradients in place. ``state`` is a flat dict of tensors, empty at first; the loop carries it, and a checkpoint
  saves it.

A step is one gradient evaluation and one optimiser step for every algorithm, so that equal steps cost about the
same. An algorithm whose update takes several (EGPO) spreads it over as many steps, and says how many in
``STEPS_PER_UPDATE``.

:func:`register` adds an algorithm from outside.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm.lora import Sharing
from slhf.algorithms import EGPO, RLOO, SPO, SPPO, Algorithm, NashMD, OnlineDPO, OnlineIPO, StackelbergGDA
from slhf.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from llm.policy import Policy

State = dict[str, "Tensor"]
"""What an algorithm remembers between steps, by name."""

Implementation = Any
"""A module, or any object, with the functions above as attributes; of this package a module's name is enough."""

IMPLEMENTATIONS: dict[type[Algorithm], Implementation] = {
    StackelbergGDA: "stackelberg_gda",
    RLOO: "rloo",
    NashMD: "nash_md",
    SPO: "spo",
    SPPO: "sppo",
    EGPO: "egpo",
    OnlineIPO: "online_ipo",
    OnlineDPO: "online_dpo",
}
"""Names are imported when the algorithm is first run, since they bring torch; which there are is known without."""


def register(spec: type[Algorithm], implementation: Implementation) -> None:
    """Let ``llm.train`` and sweeps run another algorithm; to register the same class again replaces it.

    Args:
        spec: its settings, a frozen dataclass with a ``name`` of its own.
        implementation: what the head of this module asks for.

    Raises:
        ConfigError: it lacks ``collect`` or ``loss``, or the name is another algorithm's.
    """
    missing = [part for part in ("collect", "loss") if not callable(getattr(implementation, part, None))]
    if missing:
        raise ConfigError(f"{implementation!r} cannot run {spec.__name__}: it has no {' and no '.join(missing)}.")
    holder = by_name().get(spec.name, spec)
    if holder is not spec:
        raise ConfigError(f"{spec.__name__}.name = {spec.name!r} is the name of {holder.__name__}; choose another.")
    IMPLEMENTATIONS[spec] = implementation


def by_name() -> dict[str, type[Algorithm]]:
    """The specs that run on a language model, by the names that sweep files use."""
    return {spec.name: spec for spec in IMPLEMENTATIONS}


def implementation(spec: Algorithm) -> Implementation:
    """The module that runs ``spec`` on a language model.

    Raises:
        ConfigError: there is none.
    """
    if type(spec) not in IMPLEMENTATIONS:
        known = ", ".join(cls.__name__ for cls in IMPLEMENTATIONS)
        raise ConfigError(f"{type(spec).__name__} has no language-model implementation; there are: {known}.")
    found = IMPLEMENTATIONS[type(spec)]
    return import_module(f"llm.algorithms.{found}") if isinstance(found, str) else found


def check(spec: Algorithm, sharing: Sharing, steps: int) -> None:
    """Refuse a run that the algorithm cannot make.

    Raises:
        ConfigError: two adapters for an algorithm with one role, or a last update left half done.
    """
    if sharing == "two" and not isinstance(spec, StackelbergGDA):
        raise ConfigError(f'{type(spec).__name__} has no Follower; set model.sharing to "one".')
    each = getattr(implementation(spec), "STEPS_PER_UPDATE", 1)
    if steps % each:
        raise ConfigError(f"{type(spec).__name__} takes {each} steps an update; train.steps = {steps} ends within one.")


def before_step(spec: Algorithm, policy: Policy, step: int, state: State) -> State:
    """The algorithm's ``before_step``, where it has one."""
    hook = getattr(implementation(spec), "before_step", None)
    return state if hook is None else hook(spec, policy, step, state)


def parameter_groups(spec: Algorithm, policy: Policy) -> list[dict[str, Any]]:
    """The optimiser's groups; a group's learning rate is the run's times its ``factor``.

    With an adapter for each role the timescale is the factor of the Follower's: Adam, which divides a gradient
    by its size, would cancel a weight of its loss.
    """
    return policy.parameter_groups(spec.timescale if isinstance(spec, StackelbergGDA) else 1.0)
