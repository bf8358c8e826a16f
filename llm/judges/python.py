"""A judge of one's own: a function or an object in a Python file that the user names.

It is the user's own code, run with the rights of this process. The file is loaded by its path, under a name that no
import finds, and nothing is added to ``sys.path``: what it imports must be installed, or come from the same file.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from slhf.errors import ConfigError, JudgeError, MissingResource

METHODS = ("reward", "features")
"""What an object may have beside ``prefer``; RLOO needs one of them."""


class PythonJudge:
    """What ``target`` names, with its mistakes named by file and line.

    It has ``reward``, or ``features`` and ``feature_names``, if the target has them, and so is a ``RewardJudge`` or a
    ``FeatureJudge`` exactly if the target is one.
    """

    def __init__(self, target: str) -> None:
        """Load FILE.py:NAME, a function ``prefer(prompts, a, b)``, a class without arguments, or an object.

        Raises:
            MissingResource: there is no such file.
            ConfigError: it cannot be run, holds nothing of that name, or that is no judge.
        """
        self.path, self.name = split(target)
        found = self._run(lambda: getattr(_module(self.path), self.name, None), "loading it")
        if found is None:
            raise ConfigError(f"{self.path} defines no {self.name!r}; judge.target is FILE.py:NAME.")
        if isinstance(found, type):
            found = self._run(found, f"making a {self.name}")
        is_function = callable(found) and not hasattr(found, "prefer")
        prefer = found if is_function else getattr(found, "prefer", None)
        if not callable(prefer):
            raise ConfigError(
                f"{target} is neither a function prefer(prompts, a, b) nor an object or class with such a method."
            )
        self._prefer = prefer
        for name in METHODS:
            if callable(method := getattr(found, name, None)):
                setattr(self, name, self._guarded(method, name))
        if hasattr(self, "features"):
            self.feature_names = tuple(getattr(found, "feature_names", ()))
            if not self.feature_names or not all(isinstance(name, str) for name in self.feature_names):
                raise ConfigError(f"{target} has features but no feature_names, one text for each of them.")

    def prefer(self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        """See :class:`llm.judges.Judge`."""
        return self._guarded(self._prefer, "prefer")(prompts, a, b)

    @property
    def title(self) -> str:
        """How error messages call it."""
        return f"{self.path.name}:{self.name}"

    def _guarded(self, method: Callable[..., Any], name: str) -> Callable[..., np.ndarray]:
        """The method on lists of its own, returning numbers.

        Raises:
            JudgeError: it raised, or returned something else than numbers.
        """

        def call(*texts: Sequence[str]) -> np.ndarray:
            try:
                found = method(*map(list, texts))
            except JudgeError:
                raise
            except Exception as error:  # the user's code may raise anything
                raise JudgeError(f"The judge {self.title} failed in {name}: {self._where(error)}.") from error
            try:
                return np.asarray(found, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise JudgeError(f"The judge {self.title}: {name} returned {found!r:.80}, not numbers.") from error

        return call

    def _run(self, make: Callable[[], Any], what: str) -> Any:
        try:
            return make()
        except MissingResource:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(f"The judge {self.title} failed while {what}: {self._where(error)}.") from error

    def _where(self, error: Exception) -> str:
        """The error and the last line of the user's file on the way to it."""
        if isinstance(error, SyntaxError):
            return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == self.path.absolute()]
        line = f"line {frames[-1].lineno}: " if frames else ""
        return f"{line}{type(error).__name__}: {error}"


def split(target: str) -> tuple[Path, str]:
    """The two sides of FILE.py:NAME.

    Raises:
        ConfigError: it has no such form.
    """
    file, colon, name = target.rpartition(":")
    if not (file.endswith(".py") and colon and name.isidentifier()):
        raise ConfigError(f"judge.target = {target!r}: write FILE.py:NAME, such as my_judge.py:prefer.")
    return Path(file).expanduser(), name


def digest(target: str) -> str:
    """Of the file's contents, for the manifest.

    Raises:
        MissingResource: there is no such file.
    """
    path, _ = split(target)
    return hashlib.sha256(_read(path)).hexdigest()[:16]


@cache
def _read(path: Path) -> bytes:
    """The file as it was when this process first asked: what judges is what the manifest has the digest of."""
    if not path.is_file():
        raise MissingResource(f"There is no file {path}, which judge.target names.")
    return path.read_bytes()


def _module(path: Path) -> ModuleType:
    """The file, run as a module under a name that belongs to its contents."""
    source = _read(path)
    module = ModuleType(f"_judge_{hashlib.sha256(source).hexdigest()[:16]}")
    module.__file__ = str(path.absolute())
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source, module.__file__, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module
