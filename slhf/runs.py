"""Run directories: what was run, in what environment, with what result; never half-written.

A run is a directory named by the hash of its configuration. It holds ``manifest.json`` (configuration
and environment), ``metrics.jsonl`` (one object a step) and, once the run is complete, ``finished.json``.
Whatever is written is on the disk before the next thing is written, so that neither a killed process nor a
power failure leaves a checkpoint whose metrics are missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from slhf.errors import RunError

PACKAGES = ("slhf", "numpy", "scipy", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")

STOPPED = "stopped.json"
"""What the last error that ended a run was."""

_HELD: set[Path] = set()
"""Locks that this process holds."""


def content_hash(config: Any) -> str:
    """Ten hex digits that change whenever anything in the JSON form of ``config`` does."""
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def derive_seed(*address: int | str) -> int:
    """A 63-bit seed for the draw at ``address``, such as (run seed, step, role).

    Randomness is addressed, not carried: a resumed run draws what an uninterrupted one would have drawn.
    """
    digest = hashlib.blake2b(json.dumps(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, and a crash leaves one of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk hold ``path``: the contents of a file, the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_directory(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the directory ``target`` with what ``fill`` writes into the path it is given; all of it or none.

    An older ``target`` is replaced; a crash between its removal and the renaming leaves neither.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    remove_directory(temporary)
    temporary.mkdir()
    fill(temporary)
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    remove_directory(target)
    temporary.rename(target)
    sync(target.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory if it is there; a crash may leave ``.NAME.removed``, never part of it under its own name."""
    doomed = path.with_name(f".{path.name.lstrip('.')}.removed")
    if doomed.exists():
        shutil.rmtree(doomed)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed)


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically; NaN and infinity are refused (``ValueError``)."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def settle(record: Path, what: str, value: str) -> str:
    """What was settled as ``what`` when the work began: ``value`` the first time, then what ``record`` says.

    For choices that depend on the machine, and so are no part of a run's configuration and its hash, but must not
    change when the work goes on elsewhere.

    Args:
        record: a JSON object in a file, such as a run's ``manifest.json``; it keeps the choice under "settled".
        what: a name for the choice.
        value: what would be chosen here.
    """
    known = json.loads(record.read_text(encoding="utf-8"))
    settled = known.setdefault("settled", {})
    if what not in settled:
        settled[what] = value
        write_json(record, known)
    return settled[what]


def environment() -> dict[str, Any]:
    """Versions, platform and commit: what is needed to explain a result, and nothing secret."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.check_output(
            describe, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "not a git checkout"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
        "commit": commit,
    }


@dataclass(frozen=True)
class Run:
    """One run directory. Make it with :meth:`open`."""

    path: Path

    @classmethod
    def open(cls, root: Path, name: str, config: dict[str, Any]) -> Run:
        """The directory ``root/name-HASH`` of this configuration, made with its manifest if it is new.

        Raises:
            RunError: the directory is there but belongs to another configuration (a hash collision or an
                edited manifest).
        """
        run = cls(cls.directory(root, name, config))
        if run.manifest.exists():
            known = json.loads(run.manifest.read_text(encoding="utf-8"))["config"]
            if known != json.loads(json.dumps(config)):
                raise RunError(f"{run.manifest} holds another configuration than this run's; move {run.path} away.")
        else:
            write_json(
                run.manifest, {"config": config, "environment": environment(), "started": time.strftime("%FT%T%z")}
            )
        return run

    @property
    def manifest(self) -> Path:
        """The file that says what the run is, and where it began."""
        return self.path / "manifest.json"

    @staticmethod
    def directory(root: Path, name: str, config: dict[str, Any]) -> Path:
        """Where the run of this configuration is, or would be."""
        return root / f"{name}-{content_hash(config)}"

    @property
    def finished(self) -> bool:
        """Whether the run is complete, so that it need not be repeated."""
        return (self.path / "finished.json").exists()

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run complete, with its result; the last thing a run does."""
        write_json(self.path / "finished.json", result)

    def result(self) -> dict[str, Any]:
        """What :meth:`finish` was given."""
        return json.loads((self.path / "finished.json").read_text(encoding="utf-8"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Within this context no other process may work in the directory; the system frees it when we die.

        The process that holds it may take it again.

        Raises:
            RunError: another process holds it.
        """
        import fcntl  # not at the top: Windows has none, and only training needs it

        path = (self.path / ".lock").resolve()
        if path in _HELD:
            yield
            return
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.path} is in use by {file.read() or 'another process'}. "
                    "Wait for it or end it, then start this command again: it goes on from the last checkpoint."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            _HELD.add(path)
            try:
                yield
            finally:
                _HELD.remove(path)

    @contextmanager
    def error_kept(self) -> Iterator[None]:
        """Leave ``stopped.json`` with the error that ends this context, if one does; it goes on being raised."""
        try:
            yield
        except Exception as error:  # a full memory is as worth knowing as an error of ours
            text = f"{type(error).__name__}: {error}"
            write_json(self.path / STOPPED, {"error": text, "time": time.strftime("%FT%T%z")})
            raise

    def log(self, metrics: dict[str, Any], file: str = "metrics.jsonl") -> None:
        """Append one line to ``metrics.jsonl`` (or another log); ``metrics["step"]`` says whose it is.

        Raises:
            RunError: a number is NaN or infinite, which JSON cannot hold.
        """
        try:
            line = json.dumps(metrics, allow_nan=False)
        except ValueError:
            bad = [key for key, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
            raise RunError(f"Step {metrics.get('step')}: {', '.join(bad)} of {file} is not finite.") from None
        with (self.path / file).open("a", encoding="utf-8") as log:
            log.write(line + "\n")
            log.flush()
            os.fsync(log.fileno())

    def metrics(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """All lines of a log, oldest first; a last line that is still being written, or was cut off, is left out."""
        path = self.path / file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def rewind(self, step: int) -> None:
        """Forget what the logs say of ``step`` and later, which a resumed run is about to log again.

        A last line cut off by a crash belongs to such a step and is dropped with them.

        Raises:
            RunError: ``metrics.jsonl`` does not hold every step before ``step`` once.
        """
        for leftover in self.path.glob(".*.tmp"):  # of `write_atomically`, by a process that was killed
            if leftover.is_file():
                leftover.unlink()
        for path in self.path.glob("*.jsonl"):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            write_atomically(path, "".join(line for line in lines if json.loads(line)["step"] < step))
        if [row["step"] for row in self.metrics()] != list(range(step)):
            raise RunError(
                f"{self.path / 'metrics.jsonl'} does not hold steps 0 to {step - 1} once each, though the checkpoint "
                f"comes after step {step - 1}. Move {self.path} away to start anew."
            )
