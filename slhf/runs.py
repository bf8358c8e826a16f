"""Run directories: what was run, in what environment, with what result; never half-written.

A run is a directory named by the hash of its configuration. It holds ``manifest.json`` (configuration
and environment), ``metrics.jsonl`` (one object a step) and, once the run is complete, ``finished.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from slhf.errors import RunError

PACKAGES = ("slhf", "numpy", "scipy", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


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


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, atomically; NaN and infinity are refused (``ValueError``)."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
        run = cls(root / f"{name}-{content_hash(config)}")
        manifest = run.path / "manifest.json"
        if manifest.exists():
            known = json.loads(manifest.read_text(encoding="utf-8"))["config"]
            if known != json.loads(json.dumps(config)):
                raise RunError(f"{manifest} holds another configuration than this run's; move {run.path} away.")
        else:
            write_json(manifest, {"config": config, "environment": environment(), "started": time.strftime("%FT%T%z")})
        return run

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

    def log(self, metrics: dict[str, Any], file: str = "metrics.jsonl") -> None:
        """Append one line to ``metrics.jsonl`` (or another log); ``metrics["step"]`` says whose it is."""
        with (self.path / file).open("a", encoding="utf-8") as log:
            log.write(json.dumps(metrics) + "\n")

    def metrics(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """All lines of a log, oldest first."""
        path = self.path / file
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def rewind(self, step: int) -> None:
        """Forget what the logs say of ``step`` and later, which a resumed run is about to log again.

        A last line cut off by a crash belongs to such a step and is dropped with them.
        """
        for path in self.path.glob("*.jsonl"):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            write_atomically(path, "".join(line for line in lines if json.loads(line)["step"] < step))
