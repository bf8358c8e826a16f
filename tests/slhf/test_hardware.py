"""Units for bfloat16 are found from what the system says, without torch."""

import platform

import pytest

from slhf import hardware

SAPPHIRE_RAPIDS = frozenset({"fma", "avx2", "avx512f", "avx512_bf16", "amx_bf16"})
ROME = frozenset({"fma", "avx2"})


@pytest.fixture(autouse=True)
def _linux(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")


def test_flags_are_those_that_every_core_has():
    big = "processor\t: 0\nmodel name\t: x: y\nflags\t\t: fpu avx2 avx512_bf16\n\n"
    little = "processor\t: 1\nflags\t\t: fpu avx2\n"
    assert hardware.parse_cpuinfo(big) == {"fpu", "avx2", "avx512_bf16"}
    assert hardware.parse_cpuinfo(big + little) == {"fpu", "avx2"}
    assert hardware.parse_cpuinfo("processor : 0\nFeatures\t: fp asimd bf16\n") == {"fp", "asimd", "bf16"}
    assert hardware.parse_cpuinfo("") == frozenset()


@pytest.mark.parametrize(
    ("features", "machine", "expected"),
    [
        (SAPPHIRE_RAPIDS, "x86_64", True),
        (frozenset({"avx512_bf16"}), "AMD64", True),
        (frozenset({"amx_bf16"}), "x86_64", True),
        (ROME, "x86_64", False),
        (frozenset({"avx2", "avx512f", "avx_ne_convert"}), "x86_64", False),
        (frozenset({"asimd", "bf16"}), "aarch64", True),
        (frozenset({"asimd"}), "aarch64", False),
        (frozenset(), "x86_64", False),
    ],
)
def test_units_are_flags_of_the_processor(features, machine, expected):
    units, reason = hardware.bfloat16_units(features, machine, {})
    assert units is expected
    assert reason


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", False),
        ("DNNL_MAX_CPU_ISA", "SSE41", False),
        ("ATEN_CPU_CAPABILITY", "avx2", False),
        ("ATEN_CPU_CAPABILITY", "default", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", True),
        ("ONEDNN_MAX_CPU_ISA", "ALL", True),
        ("ATEN_CPU_CAPABILITY", "avx512", True),
    ],
)
def test_limits_set_for_torch_count_and_are_named(name, value, expected):
    units, reason = hardware.bfloat16_units(SAPPHIRE_RAPIDS, "x86_64", {name: value})
    assert units is expected
    assert (f"{name}={value}" in reason) is not expected


def test_a_mac_is_taken_to_have_none(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    units, reason = hardware.bfloat16_units(frozenset({"bf16"}), "arm64", {})
    assert not units
    assert "macOS" in reason


def test_what_is_unknown_is_said():
    assert "does not say" in hardware.bfloat16_units(frozenset(), "x86_64", {})[1]


def test_a_container_s_limits_count(monkeypatch):
    files = {"cpu.max": "150000 100000", "memory.max": str(2**30), "memory.current": str(2**28)}
    monkeypatch.setattr(hardware, "_cgroup", files.get)
    assert hardware.usable_cores() == 1
    assert hardware.memory_bytes() == (2**30, min(2**30 - 2**28, hardware.memory_bytes()[1]))
    monkeypatch.setattr(hardware, "_cgroup", lambda name: "max")
    total, free = hardware.memory_bytes()
    assert 2**30 < free < total
