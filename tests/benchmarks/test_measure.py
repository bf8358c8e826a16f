"""The machinery of the benchmarks: samples, ratios, exponents, tables. Nothing here depends on how fast anything is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import measure as timing
from benchmarks import tabular as command
from benchmarks.measure import Case, Contestant, Timing
from slhf.errors import InvalidData, MissingResource


class Clock:
    """A clock that only contestants move."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, *seconds):
        """A contestant whose calls take these times in turn, the last one from then on, and returns its task."""
        durations = list(seconds)

        def call(task):
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]
            return task

        return Contestant(call)


def case(contestants, **options):
    return Case("nash", 3, 1, lambda number: number, contestants, **options)


def test_contestants_take_turns_on_the_same_tasks():
    calls = []
    contestants = {name: Contestant(lambda task, name=name: calls.append((task, name))) for name in "ab"}
    timing.measure(case(contestants), rounds=2, budget=60)
    assert calls[:2] == [(0, "a"), (0, "b")]
    in_order = list(dict.fromkeys(calls[2:]))
    assert in_order == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_samples_ratios_and_warm_up(monkeypatch):
    """The first call, slow for its imports, does not count; short calls are repeated and divided."""
    clock = Clock(monkeypatch)
    t = timing.measure(case({"slhf": clock.takes(0.3, 0.002), "peer": clock.takes(0.01)}), rounds=3, budget=60)
    assert t.seconds["slhf"] == pytest.approx([0.002] * 3)
    assert t.ratio("peer", "slhf") == pytest.approx(5)
    short = timing.measure(case({"slhf": clock.takes(0.001)}), rounds=1, budget=60)
    assert short.seconds["slhf"] == pytest.approx([0.001])


def test_a_slow_contestant_is_called_once_and_a_part_is_scaled_up(monkeypatch):
    clock = Clock(monkeypatch)
    slow, part = clock.takes(40), Contestant(clock.takes(2).call, share=0.1)
    t = timing.measure(case({"slhf": clock.takes(0.1), "slow": slow, "part": part}), rounds=5, budget=30)
    assert t.seconds["slow"] == [40]
    assert t.seconds["part"] == [20]
    assert len(t.seconds["slhf"]) == 1
    assert "| ~20 s [20 s, 20 s] **200×** |" in timing.timing_table([t])


def test_a_wrong_answer_stops_the_benchmark():
    def check(task, results):
        assert results["peer"] == results["slhf"], "different answers"
        return {}

    contestants = {"slhf": Contestant(lambda task: task), "peer": Contestant(lambda task: task + 1)}
    with pytest.raises(AssertionError, match="different answers"):
        timing.measure(case(contestants, check=check), rounds=1, budget=1)


def synthetic(n, batch, **seconds):
    return Timing("nash", n, batch, {name: [value] for name, value in seconds.items()}, dict.fromkeys(seconds, 1.0))


def test_exponents_are_recovered_with_their_range():
    timings = [synthetic(n, 1, slhf=1e-6 * n**3, peer=1e-5 * n**1.5) for n in (3, 30, 300, 3000)]
    timings += [synthetic(10, b, slhf=1e-4 + 1e-6 * b) for b in (10, 1000, 10_000, 100_000)]
    found = {(g.name, g.of): g for g in timing.growths(timings, smallest_n=30, smallest_batch=1000)}
    assert found["slhf", "n"].exponent == pytest.approx(3)
    assert (found["slhf", "n"].smallest, found["slhf", "n"].largest) == (30, 3000)
    assert found["peer", "n"].exponent == pytest.approx(1.5)
    batch = found["slhf", "batch (n = 10)"]
    assert batch.exponent == pytest.approx(1, abs=0.05)
    assert (batch.smallest, batch.largest) == (1000, 100_000)
    line = timing.growth_table([found["slhf", "n"]]).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["slhf", "n", "3.00", "30 to 3,000"]


def test_two_sizes_are_no_exponent():
    assert not list(timing.growths([synthetic(n, 1, slhf=n) for n in (30, 300)], 30, 1000))


def test_noise_moves_an_exponent_little():
    sizes = np.array([100, 200, 500, 1000])
    noisy = sizes**2.0 * np.array([1.1, 0.9, 1.05, 0.95])
    assert timing.fit_exponent(sizes, noisy) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2, "2 s"), (0.5, "500 ms"), (0.00123, "1.23 ms"), (4.56e-6, "4.56 µs"), (7e-8, "70 ns")]
)
def test_durations_have_units(seconds, text):
    assert timing.duration(seconds) == text


def test_a_missing_peer_is_an_error_with_the_command_that_installs_it():
    peers = {"numpy": "numpy", "Other": "no_such_module_here"}
    with pytest.raises(MissingResource, match=r"Not installed: Other. Run: pip install .* r.txt .*--without Other"):
        timing.require(peers, [], "r.txt")
    assert timing.require(peers, ["Other"], "r.txt") == ["numpy"]
    with pytest.raises(MissingResource, match="no peer Othr to leave out; there are numpy, Other"):
        timing.require(peers, ["Othr"], "r.txt")


def test_sections_of_a_readme_are_replaced_and_the_rest_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    other = "<!-- llm:begin -->\nkept\n<!-- llm:end -->\n"
    readme.write_text(f"# Title\n<!-- tabular:begin -->\nold\n<!-- tabular:end -->\n{other}", encoding="utf-8")
    for text in ("new\n", "newer"):
        timing.write_section(readme, "tabular", text)
    expected = f"# Title\n<!-- tabular:begin -->\n\nnewer\n\n<!-- tabular:end -->\n{other}"
    assert readme.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    "text", ["", "<!-- x:begin -->", "<!-- x:end --><!-- x:begin -->", "<!-- x:begin --><!-- x:begin --><!-- x:end -->"]
)
def test_a_readme_without_the_markers_is_refused(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidData, match=r"README.md needs the line <!-- x:begin -->"):
        timing.write_section(readme, "x", "new")
    assert readme.read_text(encoding="utf-8") == text


def test_the_machine_is_described_without_its_name():
    about = timing.machine(["numpy"])
    assert about["versions"] == {"numpy": np.__version__}
    assert about["cores"] >= 1
    assert "/" not in json.dumps(about)


def test_goals_by_the_slower_and_the_faster_peer():
    lottery = Timing("lottery", 1000, 1, {"slhf": [1.0], "QuantEcon": [4.0], "HiGHS": [2.5]}, {})
    batch = Timing("nash", 10, 10_000, {"slhf": [1.0], "cvxpy": [60.0]}, {})
    rows = {row[0]: row[1:] for row in command.goals([lottery, batch])}
    assert rows["Maximal lottery, n = 1000, 3× faster than QuantEcon and HiGHS"] == ["2.5×", "no"]
    assert rows["Batch of 10,000 KL-Nash games, n = 10, 50× faster than cvxpy"] == ["60×", "yes"]
    assert rows["Bradley-Terry, 100 items, 10× faster than choix"] == ["", "not measured"]


@pytest.mark.parametrize("kind", list(command.SECTIONS))
def test_every_table_runs_without_peers_and_answers_are_checked(kind):
    """The smallest cases, with the plain loops of this project as the only contestants; choix is a test dependency."""
    cases = [c for c in command.cases_of(kind, command.QUICK, ["choix", "HiGHS"]) if c.n * c.n * c.batch <= 1000]
    assert cases
    timings = [timing.measure(one, rounds=1, budget=0) for one in cases]
    assert all(samples for t in timings for samples in t.seconds.values())
    assert "slhf" in timing.timing_table(timings)


def test_left_out_peers_do_not_take_part():
    cases = command.cases_of("lottery", command.QUICK, ["HiGHS"])
    names = {name for one in cases for name in one.contestants}
    assert names == {"slhf", "HiGHS", 'slhf, selection="max_entropy"', 'slhf, selection="exact"'}


def test_command_line_refuses_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(command.PEERS, "Nashpy", "no_such_module_here")
    assert command.main(["--only", "slhf"]) == 2
    assert "pip install --no-deps --requirement benchmarks/requirements.txt" in capsys.readouterr().err


def test_command_line_writes_results_and_readme(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "HERE", tmp_path)
    monkeypatch.setattr(command, "QUICK", command.Sizes(n=10, batch=20, rounds=1, budget=0, program_n=10))
    (tmp_path / "README.md").write_text("<!-- tabular:begin -->\n<!-- tabular:end -->\n", encoding="utf-8")
    left_out = [option for peer in command.PEERS if peer not in ("HiGHS", "choix") for option in ("--without", peer)]
    assert command.main(["--quick", *left_out]) == 0
    raw = json.loads((tmp_path / "results" / "tabular.json").read_text(encoding="utf-8"))
    assert {t["section"] for t in raw["timings"]} == set(command.SECTIONS)
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "### Maximal lottery" in readme
    assert readme.split("-->\n\n")[1].split("\n\n<!--")[0] in capsys.readouterr().out
