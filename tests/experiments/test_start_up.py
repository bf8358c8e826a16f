"""Help and refusals import nothing heavy, and the exact world neither torch nor what its command does not need.

What is imported is checked, not how long it takes: each command runs in a process that says at its end which of the
heavy modules it holds.
"""

import subprocess
import sys

import pytest

from experiments.run import HERE
from tabular.commands import COMMANDS

HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "pandas", "matplotlib", "numba", "scipy", "IPython"}
HEAVY |= {"numpy.f2py", "numpy.testing"}  # all of numpy
GAME = str(HERE / "sweeps" / "games" / "condorcet.csv")

PROGRAM = """
import runpy, sys
blocked, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked.split(","):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing)
try:
    if script.endswith(".py"):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module(script, None, "__main__")
finally:
    print("HELD", *sys.modules, file=sys.stderr)
"""


def start(*command, blocked=""):
    """(the process, the modules it held in the end)."""
    words = [sys.executable, "-c", PROGRAM, blocked, *command]
    done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True, check=False)
    (held,) = [line for line in done.stderr.splitlines() if line.startswith("HELD ")]
    return done, set(held.split()[1:])


SCRIPTS = ("run", "evaluate", "refine", "export", "report", "train_reward")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_a_script_imports_nothing_heavy(script):
    done, held = start(f"experiments/{script}.py", "--help")
    assert done.returncode == 0
    assert f"python experiments/{script}.py" in done.stdout
    assert held & HEAVY == set()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run.py", "--set", "trian.steps=3"], "Unknown key 'trian.steps'; did you mean train.steps?"),
        (["run.py", "--set", "lr=3"], "Unknown key 'lr'; did you mean learning_rate?"),
        (["run.py", "--set", "learning_rate=-1"], "learning_rate = -1"),
        (["run.py", "quikstart"], "did you mean quickstart?"),
        (["run.py", "--json"], "--json goes with --plan"),
        (["evaluate.py", "a=embedded", "b=no/such/place"], "there is no directory no/such/place"),
        (["evaluate.py", "a=embedded", "b=embedded", "--judge", "atributes"], "did you mean attributes?"),
        (["refine.py", "prompts.txt", "--rounds", "0"], "rounds"),
        (["refine.py", "prompts.txt", "--leader", "no/such/place"], "there is no directory"),
        (["export.py", "no/such/place", "--to", "lm_eval", "--out", "x"], "there is no directory"),
        (["report.py", "no/such/place"], "no such directory"),
        (["train_reward.py", "--answers", "1"], "at least 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_imports_nothing_heavy(command, message):
    done, held = start(f"experiments/{command[0]}", *command[1:])
    assert done.returncode == 1
    assert message in done.stderr
    assert held & HEAVY == set()


@pytest.mark.parametrize("command", [("--help",), ("slove",), ("train", "--help"), ("solve", "--help")], ids=" ".join)
def test_slhf_imports_nothing_heavy_to_say_what_it_can(command):
    _, held = start("experiments.cli", *command)
    assert held & HEAVY == set()


def test_the_lines_of_the_overview_are_those_of_the_commands():
    for name, line in COMMANDS.items():
        done, _ = start("tabular", "--help")
        assert f"{name:9} {line}" in done.stdout


@pytest.mark.parametrize(
    "concept",
    [("slhf",), ("rlhf",), ("nlhf",), ("nlhf", "--tau", "0.1"), ("nlhf", "--selection", "exact")],
    ids=" ".join,
)
def test_a_small_game_is_solved_without_what_other_games_need(concept):
    done, held = start("tabular", "solve", GAME, "--concept", *concept, blocked="torch")
    assert "policy" in done.stdout
    assert held & HEAVY == set()


def test_sparse_comparisons_are_fitted_without_what_their_refusal_needs(tmp_path):
    file = tmp_path / "chain.csv"
    file.write_text("winner,loser\na,b\nb,a\nb,c\nc,b\n")
    done, held = start("tabular", "solve", str(file), "--concept", "rlhf")
    assert "1 of 3 pairs never met" in done.stdout
    assert held & HEAVY == set()


@pytest.mark.parametrize("command", [("describe", GAME), ("solve", GAME, "--concept", "nlhf", "--tau", "0.1")])
def test_the_exact_world_needs_no_torch(command):
    done, _ = start("tabular", *command, blocked="torch,transformers,peft,pydantic,yaml,tyro,datasets")
    assert done.returncode == 0, done.stderr
