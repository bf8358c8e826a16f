"""The exact solvers of ``tabular``, side by side with other libraries.

    python benchmarks/tabular.py                  about 20 minutes on two quiet cores
    python benchmarks/tabular.py --quick          small sizes only, under two minutes
    python benchmarks/tabular.py --only lottery   one table (repeat for more); prints it, keeps README and results
    python benchmarks/tabular.py --small          one small game at a time: under a minute; its own table and results

The peers have to be installed (--without NAME leaves one out on purpose):

    pip install --no-deps --requirement benchmarks/requirements.txt

Contestants take turns on the same games in one process. Raw times go to benchmarks/results/tabular.json and the tables
into benchmarks/README.md. Close other programs first: the ratios survive a busy machine better than the times do.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)  # this script's folder, in which it would be taken for the package `tabular`

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog
from tabulate import tabulate
from tqdm import tqdm

import tabular.social_choice as social
from benchmarks.measure import (
    Case,
    Contestant,
    Growth,
    Timing,
    duration,
    growth_table,
    growths,
    machine,
    measure,
    require,
    timing_table,
    write_section,
)
from slhf.errors import SLHFError
from tabular import PreferenceMatrix, compiled, solve_nlhf, solve_rlhf, solve_slhf

PEERS = {
    "QuantEcon": "quantecon",
    "HiGHS": "scipy",
    "Nashpy": "nashpy",
    "pref_voting": "pref_voting",
    "choix": "choix",
    "cvxpy": "cvxpy",
}
OURS = "slhf"
TAU = 0.01
LOOPED = 20
"""Games of a batch that peers without batches are timed on."""


@dataclass(frozen=True)
class Sizes:
    """How much to measure: the largest n and batch, rounds, seconds per case, and the largest n of slow peers."""

    n: int = 4000
    batch: int = 1_000_000
    rounds: int = 25
    budget: float = 45
    program_n: int = 1000


QUICK = Sizes(n=320, batch=10_000, rounds=5, budget=2, program_n=200)


@dataclass(frozen=True)
class Games:
    """What contestants take: our input, and margins of at most ``LOOPED`` of its games for the others."""

    P: PreferenceMatrix
    margins: Sequence[Any]


def random_games(n: int, batch: int) -> Callable[[int], Games]:
    """A round's games, other ones in every round."""

    def make(number: int) -> Games:
        P = draw(n, batch, number)
        some = PreferenceMatrix(P.p.reshape(-1, n, n)[:LOOPED])
        return Games(P, list(some.margins))

    return make


def draw(n: int, batch: int, seed: int) -> PreferenceMatrix:
    """Uniform random preferences, ``(batch, n, n)``, or ``(n, n)`` for one game."""
    shape = (n, n) if batch == 1 else (batch, n, n)
    margins = np.triu(np.random.default_rng([n, batch, seed]).uniform(-0.5, 0.5, shape), 1)
    return PreferenceMatrix.from_margins(margins - np.swapaxes(margins, -1, -2))


def cases_of(kind: str, sizes: Sizes, peers: Sequence[str]) -> list[Case]:
    """All cases of a table, smallest first."""
    cases = _small_cases(sizes) if kind == "small" else SECTIONS[kind].cases(sizes)
    return [
        Case(
            c.section, c.n, c.batch, c.make, {k: v for k, v in c.contestants.items() if _takes_part(k, peers)}, c.check
        )
        for c in cases
    ]


def _takes_part(contestant: str, peers: Sequence[str]) -> bool:
    return contestant.split(" ")[0] not in PEERS or contestant.split(" ")[0] in peers


def _grid(sizes: Sizes, ns: Sequence[int], batched_n: Sequence[int], largest_entries: float) -> list[tuple[int, int]]:
    """(n, batch): single games of all sizes, then batches, as far as ``sizes`` and memory allow."""
    single = [(n, 1) for n in ns if n <= sizes.n]
    powers = [10**k for k in range(1, 7) if 10**k <= sizes.batch]
    return single + [(n, batch) for n in batched_n for batch in powers if n * n * batch <= largest_entries]


# --- SLHF: the closed form, against the exponentials that it cannot do without


def _slhf_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for n, batch in _grid(sizes, [3, 10, 32, 100, 320, 1000, 4000], [3, 10], 2e7):
        contestants = {OURS: Contestant(lambda games: solve_slhf(games.P)), "floor: exp and copy": Contestant(_floor)}
        if n * n * batch <= 1e5:
            contestants["plain loop"] = Contestant(_slhf_loop)
        cases.append(Case("slhf", n, batch, random_games(n, batch), contestants, _same_leader))
    return cases


def _floor(games: Games) -> Any:
    return np.exp(games.P.p), games.P.p.copy()


def _slhf_loop(games: Games, tau: float = 0.1) -> list[list[float]]:
    """Eq. 5 of arXiv 2512.16626 with Python's own numbers, the Follower's policy included."""
    policies, n = [], games.P.n
    for p in games.P.p.reshape(-1, n, n).tolist():
        weights, followers = [], []
        for row in p:
            reply = [math.exp(-entry / tau) for entry in row]
            mass = sum(reply)
            followers.append([entry / mass for entry in reply])
            weights.append(mass / n)  # exp(-V / tau), so that pi ~ exp(V / tau) = 1 / weight
        total = sum(1 / weight for weight in weights)
        policies.append([1 / weight / total for weight in weights])
    return policies


def _same_leader(games: Games, results: Mapping[str, Any]) -> Mapping[str, float]:
    if "plain loop" in results:
        expected = np.reshape(results["plain loop"], games.P.p.shape[:-1])
        np.testing.assert_allclose(results[OURS].policy, expected, rtol=1e-9)
    return {"largest gap": results[OURS].certificate.worst()}


# --- KL-Nash


def _nash_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for n, batch in _grid(sizes, [3, 10, 32, 100, 320, 1000, 2000, 4000], [3, 10], 1e7):
        contestants = {OURS: Contestant(lambda games: solve_nlhf(games.P, TAU))}
        if batch == 1 and n <= sizes.program_n:
            contestants["HiGHS (no KL)"] = Contestant(_loop(_simplex))
        if n <= 32:
            contestants["cvxpy"] = Contestant(_loop(_cvxpy), min(1, LOOPED / batch))
        if 1 < batch <= 10_000:
            contestants["plain loop over solve_nlhf"] = Contestant(_loop(_one_nash), min(1, LOOPED / batch))
        cases.append(Case("nash", n, batch, random_games(n, batch), contestants, _same_nash))
    return cases


def _loop(solve: Callable[[Any], Any]) -> Callable[[Games], list[Any]]:
    """A solver without batches, on one game after the other."""
    return lambda games: [solve(margins) for margins in games.margins]


def _one_nash(margins: Any) -> Any:
    return solve_nlhf(PreferenceMatrix.from_margins(margins), TAU)


def _cvxpy(margins: Any) -> Any:
    import cvxpy

    n = len(margins)
    x = cvxpy.Variable(n, nonneg=True)
    f = cvxpy.log_sum_exp(margins @ x / TAU - math.log(n)) + cvxpy.sum(cvxpy.rel_entr(x, np.full(n, 1 / n)))
    cvxpy.Problem(cvxpy.Minimize(f), [cvxpy.sum(x) == 1]).solve(solver=cvxpy.CLARABEL)
    return x.value


def _same_nash(games: Games, results: Mapping[str, Any]) -> Mapping[str, float]:
    policies = results[OURS].policy.reshape(-1, games.P.n)
    for policy, other in zip(policies, results.get("cvxpy", []), strict=False):
        np.testing.assert_allclose(policy, other, atol=1e-2)  # cvxpy's own tolerance is on the objective
    return {"largest gap": results[OURS].certificate.worst()}


# --- Maximal lotteries


def _lottery_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for n, batch in _grid(sizes, [3, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000], [10], 1e7):
        share = min(1, LOOPED / batch)
        contestants = {OURS: Contestant(lambda games: solve_nlhf(games.P))}
        if n <= sizes.program_n:
            contestants |= {
                "QuantEcon": Contestant(_loop(_quantecon), share),
                "HiGHS": Contestant(_loop(_simplex), share),
            }
        if n <= 50 and batch == 1:
            contestants["Nashpy (linear program)"] = Contestant(_loop(_nashpy))
        if n <= 100 and batch == 1:
            contestants['slhf, selection="max_entropy"'] = Contestant(
                lambda games: solve_nlhf(games.P, selection="max_entropy")
            )
        if n <= 20 and batch == 1:
            contestants['slhf, selection="exact"'] = Contestant(lambda games: solve_nlhf(games.P, selection="exact"))
        cases.append(Case("lottery", n, batch, random_games(n, batch), contestants, _all_lotteries))
    return cases


def _quantecon(margins: Any) -> Any:
    from quantecon.optimize import minmax

    return minmax(margins)[1]


def _nashpy(margins: Any) -> Any:
    import nashpy

    return nashpy.Game(margins).linear_program()[0]


def _simplex(margins: Any) -> Any:
    """max v subject to A' pi >= v, as HiGHS solves it by default."""
    n = len(margins)
    upper = np.c_[margins, -np.ones(n)]
    equal = np.append(np.ones(n), 0)[None]
    bounds = [(0, None)] * n + [(None, None)]
    result = linprog(np.append(np.zeros(n), 1), upper, np.zeros(n), equal, [1], bounds, method="highs")
    return result.x[:n]


def _all_lotteries(games: Games, results: Mapping[str, Any]) -> Mapping[str, float]:
    """The games have one lottery each: all must find it."""
    n = games.P.n
    policies = results[OURS].policy.reshape(-1, n)
    for name, result in results.items():
        others = result.policy.reshape(-1, n) if name.startswith(OURS) else result
        for policy, other in zip(policies, others, strict=False):
            np.testing.assert_allclose(policy, np.asarray(other, dtype=float), atol=1e-5, err_msg=name)
    return {"largest gap": results[OURS].certificate.worst()}


# --- Bradley-Terry


def _rewards_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for n, comparisons in ((10, 1000), (30, 10_000), (100, 50_000), (300, 300_000), (1000, 2_000_000)):
        if comparisons > 50 * sizes.batch or n > sizes.n:
            continue
        contestants = {OURS: Contestant(lambda pairs: _fit(*pairs))}
        if comparisons <= 300_000:
            contestants["choix ilsr_pairwise"] = Contestant(lambda pairs: _choix(*pairs))
        if comparisons <= 50_000:
            contestants["plain loop (Zermelo)"] = Contestant(lambda pairs: _zermelo(*pairs))
        cases.append(Case("rewards", n, 1, _comparisons(n, comparisons), contestants, _same_rewards))
    return cases


def _comparisons(n: int, count: int) -> Callable[[int], tuple[int, list[tuple[int, int]], Any]]:
    """(n, the comparisons as a list of (winner, loser), the same as an array), of a Bradley-Terry model."""

    def make(number: int) -> tuple[int, list[tuple[int, int]], Any]:
        rng = np.random.default_rng([n, count, number])
        reward, first = rng.normal(size=n), rng.integers(n, size=count)
        second = (first + rng.integers(1, n, size=count)) % n
        won = rng.uniform(size=count) < 1 / (1 + np.exp(reward[second] - reward[first]))
        pairs = np.where(won[:, None], np.c_[first, second], np.c_[second, first])
        return n, [(int(i), int(j)) for i, j in pairs], pairs

    return make


def _count(n: int, pairs: Any) -> Any:
    return np.bincount(pairs[:, 0] * n + pairs[:, 1], minlength=n * n).reshape(n, n)


def _fit(n: int, _listed: Any, pairs: Any) -> Any:
    wins = _count(n, pairs)
    return solve_rlhf(PreferenceMatrix.from_counts(wins, missing="half"), pair_weights=wins + wins.T).reward


def _choix(n: int, listed: Any, _pairs: Any) -> Any:
    import choix

    return choix.ilsr_pairwise(n, listed)


def _zermelo(n: int, listed: Any, _pairs: Any) -> Any:
    """Ten passes of Zermelo's iteration (1929), comparison by comparison: far from converged, and slow already."""
    strength = [1.0] * n
    for _ in range(10):
        wins, exposure = [0] * n, [0.0] * n
        for i, j in listed:
            wins[i] += 1
            share = 1 / (strength[i] + strength[j])
            exposure[i] += share
            exposure[j] += share
        strength = [max(w, 1e-9) / e for w, e in zip(wins, exposure, strict=True)]
    return np.log(strength)


def _same_rewards(task: Any, results: Mapping[str, Any]) -> Mapping[str, float]:
    """The largest error of a score equation, as a share of the alternative's comparisons."""
    n, _, pairs = task
    wins = _count(n, pairs)
    asked, notes = wins + wins.T, {}
    for name, reward in results.items():
        expected = 1 / (1 + np.exp(reward[None] - reward[:, None]))
        notes[f"residual {name.split(' ')[0]}"] = float(np.abs(np.sum(wins - asked * expected, 1) / asked.sum(1)).max())
    notes.pop("residual plain", None)
    return notes


# --- Simpson, Borda, Copeland


def _social_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for n, batch in _grid(sizes, [3, 10, 32, 100, 1000, 4000], [10], 1e7):
        contestants = {OURS: Contestant(lambda task: [rule(task[0]) for rule in RULES.values()])}
        if n <= 32 and batch == 1:
            contestants["pref_voting"] = Contestant(_pref_voting)
        if n * n * batch <= 1e5:
            contestants["plain loop"] = Contestant(lambda task: _social_loop(task[0]))
        cases.append(Case("social", n, batch, _profile(n, batch), contestants, _same_winners))
    return cases


RULES = {"minimax": social.simpson_set, "borda": social.borda_winners, "copeland": social.copeland_winners}


def _profile(n: int, batch: int) -> Callable[[int], tuple[PreferenceMatrix, Any]]:
    """A game, and for single games of up to 32 alternatives the 101 rankings that it comes from."""

    def make(number: int) -> tuple[PreferenceMatrix, Any]:
        if batch > 1 or n > 32:
            return draw(n, batch, number), None
        rng = np.random.default_rng([n, number])
        rankings = [rng.permutation(n).tolist() for _ in range(101)]
        return PreferenceMatrix.from_rankings(rankings), _pref_voting_profile(rankings)

    return make


def _pref_voting_profile(rankings: list[list[int]]) -> Any:
    try:
        from pref_voting.profiles import Profile
    except ImportError:
        return None  # left out by --without: `require` has made sure
    return Profile(rankings)


def _pref_voting(task: Any) -> list[list[int]]:
    from pref_voting.c1_methods import copeland
    from pref_voting.margin_based_methods import minimax
    from pref_voting.scoring_methods import borda

    return [minimax(task[1]), borda(task[1]), copeland(task[1])]


def _social_loop(P: PreferenceMatrix) -> list[list[list[int]]]:
    """The three rules' winners with Python's own numbers."""
    winners: list[list[list[int]]] = [[], [], []]
    for p in P.p.reshape(-1, P.n, P.n).tolist():
        others = [[entry for j, entry in enumerate(row) if j != i] for i, row in enumerate(p)]
        scores: list[list[float]] = [
            [min(row) for row in others],
            [sum(row) for row in others],
            [sum((entry > 0.5) - (entry < 0.5) for entry in row) for row in others],
        ]
        for rule, score in zip(winners, scores, strict=True):
            rule.append([i for i, value in enumerate(score) if value >= max(score) - 1e-12])
    return winners


def _same_winners(task: Any, results: Mapping[str, Any]) -> Mapping[str, float]:
    ours = [[np.flatnonzero(game).tolist() for game in mask.reshape(-1, task[0].n)] for mask in results[OURS]]
    theirs = [results["plain loop"]] if "plain loop" in results else []
    theirs += [[[winners] for winners in results["pref_voting"]]] if "pref_voting" in results else []
    for expected in theirs:
        if expected != ours:
            raise AssertionError(f"Other winners: {expected} and {ours}.")
    return {}


# --- One small game


def _small_cases(sizes: Sizes) -> list[Case]:
    """All three, with all that an answer holds: both policies, values, certificate."""
    cases = []
    for n in (3, 10, 32):
        mine: dict[str, tuple[Callable[[Games], Any], str, Callable[[Games], Any]]] = {
            "SLHF": (lambda games: solve_slhf(games.P), "plain loop", _slhf_loop),
            "lottery": (lambda games: solve_nlhf(games.P), "QuantEcon", _loop(_quantecon)),
            "KL-Nash": (lambda games: solve_nlhf(games.P, TAU), "HiGHS (no KL)", _loop(_simplex)),
        }
        for name, (ours, peer, theirs) in mine.items():
            contestants = {OURS: Contestant(ours), peer: Contestant(theirs)}
            cases.append(Case(f"small {name}", n, 1, random_games(n, 1), contestants, _with_certificate))
    return cases


def _with_certificate(games: Games, results: Mapping[str, Any]) -> Mapping[str, float]:
    if "plain loop" in results:
        return _same_leader(games, results)
    if "QuantEcon" in results:
        return _all_lotteries(games, results)
    return _same_nash(games, results)


SMALL = {  # (task, n): at most this many times as long as the peer (issue 10)
    ("SLHF", 3): 1.0,
    ("SLHF", 32): 1 / 5,
    ("lottery", 10): 3.0,
    ("KL-Nash", 10): 1 / 5,
}


def _least(timing: Timing, name: str) -> float:
    """The shortest sample: what a busy machine disturbs least."""
    return min(timing.seconds[name])


def small_table(timings: Sequence[Timing]) -> str:
    """Markdown: ours, the peer, and by which factor ours takes longer: of the shortest samples, and the median."""
    rows = []
    for t in timings:
        task, (_, peer) = t.section.removeprefix("small "), t.seconds
        ratio, goal = _least(t, OURS) / _least(t, peer), SMALL.get((task, t.n))
        met = "" if goal is None else f"{goal:.3g}: {'met' if ratio <= goal else 'missed'}"
        ours, theirs = duration(_least(t, OURS)), duration(_least(t, peer))
        median = t.ratio(OURS, peer)
        rows.append([task, t.n, ours, peer, theirs, f"{ratio:.3g}", f"{median:.3g}", met])
    headers = ["", "n", "slhf", "peer", "its time", "slhf / peer", "by medians", "goal, at most"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def measure_small(peers: Sequence[str]) -> None:
    """Measure, print, and write ``results/small_games.json`` and the README's table of small games."""
    cases = [case for case in cases_of("small", Sizes(), peers) if len(case.contestants) == 2]
    for case in cases:
        measure(case, 1, 0)  # imports and compiles: how often to repeat is judged by the first call
    timings = [measure(case, rounds=200, budget=4) for case in tqdm(cases, unit="case")]
    about = machine(["numpy", "scipy", "numba", *(PEERS[peer] for peer in peers if peer == "QuantEcon")])
    text = (
        f"One game at a time, everything in the answer included, on {about['cores']} cores ({about['processor']}), "
        f"Python {about['python']}; shortest of up to 200 samples.\n\n{small_table(timings)}"
    )
    print(text)
    raw = {"machine": about, "timings": [asdict(timing) for timing in timings]}
    (HERE / "results" / "small_games.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    write_section(HERE / "README.md", "small_games", text)


@dataclass(frozen=True)
class Section:
    """A table: its title, its cases, and from where on cost is fitted."""

    title: str
    cases: Callable[[Sizes], list[Case]]
    smallest_n: int
    smallest_batch: int = 1000


SECTIONS = {
    "slhf": Section("SLHF, closed form at tau = .1: both policies, values and certificate", _slhf_cases, 100),
    "nash": Section(f"KL-Nash at tau = {TAU}, uniform reference", _nash_cases, 320),
    "lottery": Section("Maximal lottery", _lottery_cases, 50),
    "rewards": Section("Bradley-Terry: comparisons in, rewards out", _rewards_cases, 30),
    "social": Section("Simpson, Borda and Copeland winners, all three", _social_cases, 100),
}


# --- Goals


def goals(timings: Sequence[Timing]) -> list[list[str]]:
    """What issue 3 asks for, as far as it was measured: the goal, the number, and whether it is met."""
    by = {(t.section, t.n, t.batch): t for t in timings}
    rows = []

    def goal(text: str, key: tuple[str, int, int], needed: float, *names: str) -> None:
        timing = by.get(key)
        if timing is None or not all(name in timing.seconds for name in names):
            rows.append([text, "", "not measured"])
            return
        value = min(timing.ratio(name, OURS) for name in names)
        rows.append([text, f"{value:.3g}×", "yes" if value >= needed else "no"])

    for n in (32, 100, 320, 1000, 4000):
        goal(
            f"SLHF within 4× of the floor, n = {n}: floor / time >= 1/4",
            ("slhf", n, 1),
            0.25,
            "floor: exp and copy",
        )
    goal("KL-Nash, n = 1000, 5× faster than HiGHS without KL", ("nash", 1000, 1), 5, "HiGHS (no KL)")
    goal("Batch of 10,000 KL-Nash games, n = 10, 50× faster than cvxpy", ("nash", 10, 10_000), 50, "cvxpy")
    goal("Maximal lottery, n = 50, not slower than QuantEcon", ("lottery", 50, 1), 1, "QuantEcon")
    goal("Maximal lottery, n = 1000, 3× faster than QuantEcon and HiGHS", ("lottery", 1000, 1), 3, "QuantEcon", "HiGHS")
    goal("Bradley-Terry, 100 items, 10× faster than choix", ("rewards", 100, 1), 10, "choix ilsr_pairwise")
    return rows


# --- The command


def report(
    timings: Sequence[Timing], grown: Mapping[str, Sequence[Growth]], about: Mapping[str, Any], size: str
) -> str:
    """Markdown of everything."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        f"{size} on {about['cores']} cores ({about['processor']}, {about['system']}), Python {about['python']}, BLAS "
        f"{about['blas']}; {versions}.",
        "",
        "Median [least, most] of one call; **bold**: a peer's time as a multiple of ours; ~: computed from "
        f"{LOOPED} games of the batch, one after the other.",
    ]
    for kind, section in SECTIONS.items():
        mine = [timing for timing in timings if timing.section == kind]
        if mine:
            lines += ["", f"### {section.title}", "", timing_table(mine)]
            lines += ["", growth_table(grown[kind])] if grown[kind] else []
    table = tabulate(goals(timings), ["goal", "measured", "met"], tablefmt="github", disable_numparse=True)
    return "\n".join([*lines, "", "### Goals", "", table])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/tabular.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="measure and print this table only")
    parser.add_argument("--small", action="store_true", help="only the ratios of one small game at a time")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help=f"one of {', '.join(PEERS)}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write results and README."""
    options = parse(arguments)
    try:
        peers = require(PEERS, options.without, "benchmarks/requirements.txt")
    except SLHFError as error:
        print(error, file=sys.stderr)
        return 2
    compiled.load()  # numba, which solvers otherwise load after a while
    if options.small:
        measure_small(peers)
        return 0
    sizes = QUICK if options.quick else Sizes()
    cases = [case for kind in options.only or SECTIONS for case in cases_of(kind, sizes, peers)]
    timings = []
    for kind in dict.fromkeys(case.section for case in cases):
        measure(next(case for case in cases if case.section == kind), 1, 0)  # imports and compiles
    for case in (progress := tqdm(cases, unit="case", smoothing=0)):
        progress.set_description(f"{case.section} n={case.n} batch={case.batch}")
        timings.append(measure(case, sizes.rounds, sizes.budget))
    grown = {
        kind: list(growths([t for t in timings if t.section == kind], section.smallest_n, section.smallest_batch))
        for kind, section in SECTIONS.items()
    }
    about = machine(["numpy", "scipy", "numba", *(PEERS[peer] for peer in peers if peer != "HiGHS")])
    text = report(timings, grown, about, "Quick sizes" if options.quick else "Full sizes")
    print(text)
    if not options.only:
        raw = {"machine": about, "sizes": asdict(sizes), "timings": [asdict(timing) for timing in timings]}
        raw["growth"] = {kind: [asdict(growth) for growth in rows] for kind, rows in grown.items()}
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "tabular.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        write_section(HERE / "README.md", "tabular", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
