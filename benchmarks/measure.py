"""Timing contestants side by side, fitting exponents of cost, and writing tables into a README."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from slhf.errors import InvalidData, MissingResource

SHORTEST_SAMPLE = 0.003
"""Shorter calls are repeated within one sample, in seconds."""
WARM_UP = 0.5
"""The first call of a contestant is left out of the samples if it takes less, in seconds."""


@dataclass(frozen=True)
class Contestant:
    """One way to solve the task.

    Attributes:
        call: what is timed; it takes what the case's ``make`` returned.
        share: the part of the task that ``call`` does, when doing all of it would take too long: its time is
            divided by it, and tables mark it.
    """

    call: Callable[[Any], Any]
    share: float = 1.0


@dataclass(frozen=True)
class Case:
    """One line of a table: the same task for all contestants.

    Attributes:
        section: the table.
        n: the number of alternatives.
        batch: how many games.
        make: the task of a round, given its number, outside the timing.
        contestants: by name, ours first.
        check: raises if the results, by name, are not right; returns what to note about them.
    """

    section: str
    n: int
    batch: int
    make: Callable[[int], Any]
    contestants: Mapping[str, Contestant]
    check: Callable[[Any, Mapping[str, Any]], Mapping[str, float]] = lambda task, results: {}


@dataclass(frozen=True)
class Timing:
    """The samples of a case: seconds per call, by contestant, and what its check noted."""

    section: str
    n: int
    batch: int
    seconds: dict[str, list[float]]
    shares: dict[str, float]
    notes: dict[str, float] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The median time of a contestant, in seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, to: str) -> float:
        """How many times as long ``name`` takes as ``to``, by medians."""
        return self.median(name) / self.median(to)


def measure(case: Case, rounds: int, budget: float) -> Timing:
    """Time all contestants in turn, ``rounds`` times, or until ``budget`` seconds have passed.

    All of them are called at least once. In each round all contestants get the same task.
    """
    seconds: dict[str, list[float]] = {name: [] for name in case.contestants}
    loops: dict[str, int] = {}
    start, task = time.perf_counter(), case.make(0)
    results = {}
    for name, contestant in case.contestants.items():
        elapsed, results[name] = _time(contestant, task, 1)
        loops[name] = max(1, int(SHORTEST_SAMPLE / max(elapsed, 1e-7)))
        if elapsed > WARM_UP:
            seconds[name].append(elapsed / contestant.share)
    notes = dict(case.check(task, results))
    for number in range(1, rounds + 1):
        task = case.make(number)
        for name, contestant in case.contestants.items():
            if seconds[name] and time.perf_counter() - start > budget:
                continue
            seconds[name].append(_time(contestant, task, loops[name])[0] / contestant.share)
        if time.perf_counter() - start > budget:
            break
    shares = {name: contestant.share for name, contestant in case.contestants.items()}
    return Timing(case.section, case.n, case.batch, seconds, shares, notes)


def _time(contestant: Contestant, task: Any, loops: int) -> tuple[float, Any]:
    start = time.perf_counter()
    for _ in range(loops):
        result = contestant.call(task)
    return (time.perf_counter() - start) / loops, result


@dataclass(frozen=True)
class Growth:
    """Cost ~ size^exponent, by least squares of log cost on log size over ``smallest`` to ``largest``."""

    name: str
    of: str
    exponent: float
    smallest: int
    largest: int


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds on log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def growths(timings: Sequence[Timing], smallest_n: int, smallest_batch: int) -> Iterator[Growth]:
    """For every contestant of one section: how its cost grows with n in single games, and with the batch.

    Sizes below the given ones are left out: there the cost of a call is that of calling. At least three
    sizes are needed.
    """
    names = dict.fromkeys(name for timing in timings for name in timing.seconds)
    for name in names:
        having = [timing for timing in timings if name in timing.seconds]
        single = {t.n: t.median(name) for t in having if t.batch == 1 and t.n >= smallest_n}
        if len(single) >= 3:
            yield Growth(name, "n", fit_exponent(list(single), list(single.values())), min(single), max(single))
        for n in sorted({t.n for t in having}):
            batches = {t.batch: t.median(name) for t in having if t.n == n and t.batch >= smallest_batch}
            if len(batches) >= 3:
                exponent = fit_exponent(list(batches), list(batches.values()))
                yield Growth(name, f"batch (n = {n})", exponent, min(batches), max(batches))


def timing_table(timings: Sequence[Timing]) -> str:
    """Markdown: a line per case, medians with their range, and each peer's time as a multiple of ours.

    The first contestant is ours. ~ marks times computed from a part of the task.
    """
    names = list(dict.fromkeys(name for timing in timings for name in timing.seconds))
    notes = list(dict.fromkeys(note for timing in timings for note in timing.notes))
    rows = []
    for t in timings:
        row = [t.n, f"{t.batch:,}", *(_cell(t, name, names[0]) for name in names)]
        rows.append(row + [f"{t.notes[note]:.1e}" if note in t.notes else "" for note in notes])
    headers = ["n", "batch", *names, *notes]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _cell(timing: Timing, name: str, ours: str) -> str:
    if name not in timing.seconds:
        return ""
    samples = timing.seconds[name]
    text = f"{'~' if timing.shares[name] < 1 else ''}{duration(timing.median(name))}"
    text += f" [{duration(min(samples))}, {duration(max(samples))}]"
    return text if name == ours else f"{text} **{timing.ratio(name, ours):.3g}×**"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def growth_table(rows: Sequence[Growth]) -> str:
    """Markdown: the fitted exponents."""
    cells = [[g.name, g.of, f"{g.exponent:.2f}", f"{g.smallest:,} to {g.largest:,}"] for g in rows]
    return tabulate(cells, ["", "cost grows with", "exponent", "fitted from"], tablefmt="github", disable_numparse=True)


def require(peers: Mapping[str, str], without: Collection[str], requirements: str) -> list[str]:
    """The peers that take part: all but ``without``.

    Args:
        peers: the module that each needs, by name.
        without: names to leave out.
        requirements: the file to install them from.

    Raises:
        MissingResource: one of them is not installed.
    """
    unknown = sorted(set(without) - set(peers))
    if unknown:
        raise MissingResource(f"There is no peer {', '.join(unknown)} to leave out; there are {', '.join(peers)}.")
    chosen = [name for name in peers if name not in without]
    missing = [name for name in chosen if importlib.util.find_spec(peers[name]) is None]
    if missing:
        raise MissingResource(
            f"Not installed: {', '.join(missing)}. Run: pip install --no-deps --requirement {requirements} "
            f"(or leave out on purpose: {' '.join(f'--without {name}' for name in missing)})."
        )
    return chosen


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on: cores, processor, versions, BLAS and its threads; no names or paths."""
    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "blas": f"{blas['name']} {blas['version']}",
        "threads": {name: os.environ.get(name, "unset") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        "versions": {name: version(name) for name in packages},
    }


def write_section(readme: Path, name: str, text: str) -> None:
    """Replace what is between the lines ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        InvalidData: the file lacks one of the two, or has them more than once or in the wrong order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = readme.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise InvalidData(f"{readme.name} needs the line {begin} and, after it, {end}, once each.")
    before, after = content.split(begin)[0], content.split(end)[1]
    readme.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
