"""One file per algorithm: ``collect(spec, collector, prompts, step)`` and ``loss(spec, logp, experience)``."""

from types import ModuleType

from llm.algorithms import nash_md, rloo, stackelberg_gda
from slhf.algorithms import RLOO, Algorithm, NashMD, StackelbergGDA
from slhf.errors import ConfigError

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
