"""The errors a user can meet. Every message says what was wrong, where, and what to do.

All of them derive from :class:`SLHFError`, so a command line needs one ``except`` to turn any of
them into one line and a non-zero exit status. Errors about values are also of type ``ValueError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slhf.certificates import Certificate


class SLHFError(Exception):
    """Base of every error this project raises on purpose."""


class InvalidPreferences(SLHFError, ValueError):
    """A preference matrix, or data meant to become one, is not valid."""


class MissingPair(InvalidPreferences):
    """A pair of alternatives was never compared and no rule for missing pairs was given."""


class InvalidReference(SLHFError, ValueError):
    """A reference policy has the wrong shape, does not sum to one, or lacks support."""


class InvalidParameter(SLHFError, ValueError):
    """A number is outside its range: a negative temperature, a zero learning rate, ..."""


class DisconnectedComparisons(SLHFError, ValueError):
    """The Bradley-Terry maximum-likelihood estimate does not exist.

    ``components`` holds the strongly connected components of the win graph, as index tuples.
    """

    def __init__(self, message: str, components: list[tuple[int, ...]]) -> None:
        super().__init__(message)
        self.components = components


class NotConverged(SLHFError, RuntimeError):
    """A solver stopped before its tolerance; ``best`` is what it had, ``certificate`` its quality."""

    def __init__(self, message: str, best: Any, certificate: Certificate) -> None:
        super().__init__(message)
        self.best = best
        self.certificate = certificate


class ConfigError(SLHFError, ValueError):
    """A configuration file or a ``--set`` override is wrong."""


class InvalidData(SLHFError, ValueError):
    """A data file could not be read as what it should be; names the file, line and field."""


class MissingResource(SLHFError, RuntimeError):
    """A model, package or file that the run needs is not there; says how to get it."""


class JudgeError(SLHFError, RuntimeError):
    """A judge could not give a preference. There is no default preference to fall back to."""


class TrainingError(SLHFError, RuntimeError):
    """Training cannot go on: non-finite loss, an adapter that does not train, ..."""


class RunError(SLHFError, RuntimeError):
    """A run directory is inconsistent with what was asked of it."""


def require_at_least(config: object, **least: float) -> None:
    """Check fields of a configuration object: ``require_at_least(self, steps=1)``. None passes.

    Raises:
        InvalidParameter: naming the field, its value and its least value.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and value < bound:
            raise InvalidParameter(f"{type(config).__name__}.{name} = {value}: must be at least {bound}.")
