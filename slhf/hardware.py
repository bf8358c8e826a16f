"""What the processor can do, as the operating system tells it: no torch, nothing measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

X86 = ("x86_64", "amd64", "i386", "i686")

X86_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Flags of x86 processors that multiply bfloat16; ``avx_ne_convert`` only converts it."""

ONEDNN_WITHOUT_BFLOAT16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")
"""Values of ONEDNN_MAX_CPU_ISA (and its old name DNNL_MAX_CPU_ISA) below AVX512_CORE_BF16; oneDNN ignores case."""

ATEN_WITHOUT_BFLOAT16 = ("default", "avx2")
"""Values of ATEN_CPU_CAPABILITY below avx512."""

SYSCTL = "/usr/sbin/sysctl"

APPLE_FEATURES = ("AdvSIMD", "FEAT_BF16", "FEAT_I8MM", "FEAT_SME", "FEAT_SME2")
"""Names under ``hw.optional.arm`` that say something about matrix products."""


def cpu_features() -> frozenset[str]:
    """What all cores have, in the system's words ("avx2", "amx_bf16", "bf16"); empty where it does not tell.

    Linux: the flags (Arm: Features) of /proc/cpuinfo. macOS: sysctl, in lower case and without ``FEAT_`` on Apple's
    processors. Elsewhere: unknown, so empty.
    """
    if platform.system() == "Linux":
        try:
            return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
        except OSError:  # a sandbox without /proc
            return frozenset()
    return _sysctl_features() if platform.system() == "Darwin" else frozenset()


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags that every core of a /proc/cpuinfo lists: a process may be moved to any of them."""
    lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    cores = [frozenset(value.lower().split()) for key, value in lines if key.strip() in ("flags", "Features")]
    return frozenset.intersection(*cores) if cores else frozenset()


def _sysctl_features() -> frozenset[str]:
    if platform.machine() in X86:
        names = _sysctl("machdep.cpu.features", "machdep.cpu.leaf7_features")
        return frozenset(" ".join(names.values()).lower().replace("avx1.0", "avx").split())
    found = _sysctl(*(f"hw.optional.arm.{name}" for name in APPLE_FEATURES))
    return frozenset(key.rsplit(".", 1)[-1].removeprefix("FEAT_").lower() for key, on in found.items() if on == "1")


def _sysctl(*names: str) -> dict[str, str]:
    """The values that this Mac knows; sysctl leaves unknown names out and complains of them on standard error."""
    done = subprocess.run([SYSCTL, *names], capture_output=True, text=True, check=False)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


def bfloat16_units(
    features: frozenset[str] | None = None, machine: str | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[bool, str]:
    """Whether torch on this processor multiplies bfloat16 in units made for it, and the reason in a few words.

    Without them a bfloat16 product is slower than one in float32, about six times where it was measured (AVX2). The
    limits that a user may set for torch's libraries, ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY, count as if the
    processor were the smaller one. In doubt the answer is no.

    Args:
        features: as of :func:`cpu_features`, which is asked when it is None.
        machine: as of ``platform.machine``.
        environment: where limits are looked up.
    """
    features = cpu_features() if features is None else features
    machine = (platform.machine() if machine is None else machine).lower()
    if platform.system() == "Darwin":
        return False, "torch's CPU code for macOS does not use them"
    if not features:
        return False, "this system does not say what its processor can do"
    if machine not in X86:
        return ("bf16" in features), ("bf16" if "bf16" in features else "no bf16 among the processor's features")
    found = [flag for flag in X86_BFLOAT16 if flag in features]
    if not found:
        return False, f"none of {', '.join(X86_BFLOAT16)} among the processor's flags"
    limit = _limit(environment)
    return (False, f"{limit} switches them off") if limit else (True, ", ".join(found))


def has_bfloat16_units() -> bool:
    """Whether bfloat16 is worth its while on this processor, see :func:`bfloat16_units`."""
    return bfloat16_units()[0]


def _limit(environment: Mapping[str, str]) -> str:
    """The variable, with its value, that keeps torch from using the units; empty if none does."""
    for name, without in (
        ("ONEDNN_MAX_CPU_ISA", ONEDNN_WITHOUT_BFLOAT16),
        ("DNNL_MAX_CPU_ISA", ONEDNN_WITHOUT_BFLOAT16),
        ("ATEN_CPU_CAPABILITY", ATEN_WITHOUT_BFLOAT16),
    ):
        value = environment.get(name, "")
        if value.lower() in without:
            return f"{name}={value}"
    return ""


def usable_cores() -> int:
    """Processors that this process may use: fewer than there are in a container or a batch job with a limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def memory_bytes() -> tuple[int | None, int | None]:
    """(total, free for a new process) in bytes, with the limit of a container; None where the system does not tell."""
    if platform.system() == "Darwin":
        size = _sysctl("hw.memsize").get("hw.memsize")
        return (int(size) if size else None), None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    found = {key: int(value.split()[0]) * 1024 for key, value in (line.split(":", 1) for line in lines)}
    total, free = found["MemTotal"], found["MemAvailable"]
    limit, used = _cgroup("memory.max").strip(), _cgroup("memory.current").strip()
    if limit.isdigit() and used.isdigit():
        total, free = min(total, int(limit)), min(free, int(limit) - int(used))
    return total, free


def _cgroup(name: str) -> str:
    """A file of the control group (version 2) of a container; empty outside of one."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text(encoding="utf-8")
    except OSError:
        return ""
