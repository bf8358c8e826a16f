"""``slhf doctor``: what this machine and this installation can do, and what stands in the way.

Neither torch nor numba need be there, and nothing heavy is imported: versions come from the packages' metadata.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from packaging.requirements import Requirement

from llm import embedded
from slhf import hardware
from slhf.extras import ROOT, install_command

Section = dict[str, str]
"""What was found, by name."""

GIB = 2**30
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16", "i8mm")
"""Features of processors that decide how fast matrices are multiplied."""
PACKAGES = ("numpy", "scipy", "numba", "pandas", "matplotlib", "torch", "transformers", "peft", "datasets", "vllm")
OURS = ("slhf", "tabular", "llm", "experiments")


def machine() -> Section:
    """Processor, memory, GPU, disk."""
    features = hardware.cpu_features()
    units, reason = hardware.bfloat16_units(features)
    shown = [name for name in INSTRUCTIONS if name in features]
    total, free = hardware.memory_bytes()
    cores, present = hardware.usable_cores(), os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": f"{cores}" if cores == present else f"{cores} of {present}",
        "instructions": ", ".join(shown) or ("none of note" if features else "unknown"),
        "bfloat16 units": f"{'yes' if units else 'no'} ({reason}); `dtype: auto` on the CPU is "
        f"{'bfloat16' if units else 'float32'}",
        "memory": "unknown" if total is None else _gib(total) + ("" if free is None else f", {_gib(free)} free"),
        "GPU": gpu(),
        "disk free": f"{_gib(_free(Path.cwd()))} here, {_gib(_free(embedded.cache_directory()))} for models in "
        f"{embedded.cache_directory()}",
    }


def gpu() -> str:
    """What NVIDIA's or AMD's own tool finds; whether torch was built for it is seen from its version."""
    for tool, *options in (["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], ["rocm-smi"]):
        if shutil.which(tool) is None:
            continue
        done = subprocess.run([tool, *options], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found = "; ".join(done.stdout.split("\n")).strip("; ") if options else "found by rocm-smi"
            unused = "+cpu" in _version("torch")
            return found + ("; this build of torch is for CPUs only and does not use it" if unused else "")
        return f"{tool} fails: {' '.join((done.stderr or done.stdout).split()) or done.returncode}"
    return "none found" + (" (Apple's is not used)" if platform.system() == "Darwin" else "")


def software() -> Section:
    """Versions; what of the project's extras is missing, and how to get it."""
    found = {"python": f"{platform.python_version()}, {sys.executable}"}
    found |= {name: _version(name) for name in PACKAGES if _version(name)}
    missing = [f"{extra} ({install_command(extra)})" for extra in ("llm", "fast") if not _has(extra)]
    return found | ({"not installed": "; ".join(missing)} if missing else {})


def models() -> Section:
    """The models that come inside packages."""
    return {"language model": embedded.describe_model(), "sentence encoder": embedded.describe_sentence_encoder()}


def quickstart() -> Section:
    """How long the main job will take here, where its packages are."""
    if not _has("llm"):
        return {}
    from experiments import duration  # here: it brings torch, and nothing else in this file does

    minutes = duration.quickstart_minutes()
    return {} if minutes is None else {"make run": f"about {max(1, round(minutes))} minutes, set-up not included"}


def conflicts() -> list[str]:
    """What stands in the way, each with what to do; nothing is imported."""
    return [*foreign_llm(), *shadows(), *unmet()]


def foreign_llm() -> Iterator[str]:
    """The PyPI package that has the name of ours."""
    if _version("llm"):
        yield "The PyPI package `llm` clashes with this project's package `llm`: pip uninstall llm"


def shadows() -> Iterator[str]:
    """Modules that another folder on the path hides: ours from elsewhere, or an installed package behind a file."""
    for name in OURS:
        spec = PathFinder.find_spec(name)
        place = ROOT if spec is None or spec.origin is None else Path(spec.origin).resolve().parent.parent
        if place != ROOT:
            yield f"`import {name}` finds {place / name} in place of {ROOT / name}: take {place} off PYTHONPATH"
    library = Path(str(metadata.distribution("packaging").locate_file(""))).resolve()
    added = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for entry in added:
        if Path(entry).resolve() == library:
            continue
        for name in PACKAGES:
            if PathFinder.find_spec(name, [entry]) and PathFinder.find_spec(name, [str(library)]):
                yield f"PYTHONPATH has {Path(entry) / name}, which hides the installed {name}: take {entry} off it"


def unmet() -> Iterator[str]:
    """Requirements of installed packages, from ours on, that the installed versions do not meet."""
    seen: set[str] = set()
    waiting = ["slhf", *PACKAGES]
    while waiting:
        name = waiting.pop()
        if name in seen or not _version(name):
            continue
        seen.add(name)
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            version = _version(needed.name)
            if version and not needed.specifier.contains(version, prereleases=True):
                yield f"{name} needs {needed.name}{needed.specifier}, but {version} is installed"
            waiting.append(needed.name)


SECTIONS: tuple[tuple[str, Callable[[], Section]], ...] = (
    ("machine", machine),
    ("software", software),
    ("models", models),
    ("quickstart", quickstart),
)
"""What is shown, in order. A section is asked when its turn comes, and left out if it has nothing to say."""


def main(arguments: Sequence[str] | None = None, prog: str = "slhf doctor") -> int:
    """Print what is found; the exit status is 1 if something stands in the way."""
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0].partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args(arguments).json
    found = {title: section for title, ask in SECTIONS if (section := ask())}
    wrong = conflicts()
    if as_json:
        print(json.dumps({**found, "conflicts": wrong}, indent=2))
        return 1 if wrong else 0
    for title, section in found.items():
        width = max(map(len, section))
        print("\n".join([title, *(f"  {name:{width}} {text}" for name, text in section.items()), ""]))
    print("\n".join(["conflicts", *(f"  {line}" for line in wrong or ["none"])]))
    return 1 if wrong else 0


def _has(extra: str) -> bool:
    return bool(_version({"llm": "torch", "fast": "numba"}[extra]))


def _version(distribution: str) -> str:
    """Of an installed distribution; empty if there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _free(path: Path) -> int:
    """Bytes free where ``path`` is, or would be made."""
    return shutil.disk_usage(next(place for place in (path, *path.absolute().parents) if place.exists())).free


def _gib(number: int) -> str:
    return f"{number / GIB:.1f} GiB"
